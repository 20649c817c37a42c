"""What every test runs under: one of eight devices, strict promotion, reproducible randomness."""

import itertools
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import hypothesis
import jax
import pytest

# Set on import, before a test module can touch a device: the number is fixed from then on. A test
# of several devices undoes the default.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_device", jax.devices()[0])
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Nothing of a user's own cache is read or written.
_cache = tempfile.TemporaryDirectory(prefix="jaxrobust-tests-")
os.environ["JAXROBUST_CACHE"] = _cache.name

# How long an example takes depends on compilation and on how busy the machine is, so time decides
# nothing. Continuous integration draws the same examples on every run; elsewhere they vary.
for profile, examples in {"quick": 20, "thorough": 200}.items():
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize="CI" in os.environ,
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("quick")  # --hypothesis-profile=thorough has the last word

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> Callable[[], jax.Array]:
    """A function that gives a new random key at each call, the same ones each time a test runs."""
    key = jax.random.key(zlib.crc32(request.node.nodeid.encode()))
    counter = itertools.count()
    return lambda: jax.random.fold_in(key, next(counter))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and images that the project itself does not contain."""
    folder = Path(os.environ.get("JAXROBUST_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the folder of real data {folder} (JAXROBUST_SHARED_DATA names another)")
    return folder
