from jaxrobust.costing.estimate import Estimate as Estimate
from jaxrobust.costing.estimate import plan as plan
from jaxrobust.data import ImageSource as ImageSource
from jaxrobust.data import images as images
from jaxrobust.design.options import Options as Options
from jaxrobust.ground.errors import SpecificationError as SpecificationError
from jaxrobust.metrics import Metric as Metric
from jaxrobust.metrics import metric as metric
from jaxrobust.network import Network as Network
from jaxrobust.networks.zoo import load as load
from jaxrobust.perturbations import Perturbation as Perturbation
from jaxrobust.perturbations import describe as describe
from jaxrobust.perturbations import perturb as perturb
from jaxrobust.perturbations import perturbation as perturbation
from jaxrobust.preprocessing import Preprocessing as Preprocessing
from jaxrobust.report import write_report as write_report
from jaxrobust.results import accuracy as accuracy
from jaxrobust.results import right as right
from jaxrobust.runtime.hosts import initialize as initialize
from jaxrobust.storage.run_folder import open_run as open_run
from jaxrobust.summary import by_layer as by_layer
from jaxrobust.sweeps import Evaluation as Evaluation
from jaxrobust.sweeps import evaluate as evaluate
from jaxrobust.sweeps import sweep as sweep

__version__: str
