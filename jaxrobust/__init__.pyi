from jaxrobust.data import ImageSource as ImageSource
from jaxrobust.data import images as images
from jaxrobust.engine import Evaluation as Evaluation
from jaxrobust.engine import Options as Options
from jaxrobust.engine import evaluate as evaluate
from jaxrobust.engine import sweep as sweep
from jaxrobust.engine.estimate import Estimate as Estimate
from jaxrobust.engine.estimate import plan as plan
from jaxrobust.errors import SpecificationError as SpecificationError
from jaxrobust.hosts import initialize as initialize
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
from jaxrobust.run_folder import open_run as open_run
from jaxrobust.summary import by_layer as by_layer

__version__: str
