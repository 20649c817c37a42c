"""The rooms of the package and the one direction in which they may import each other."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "jaxrobust"
MOST_FILES, MOST_LINES = 12, 400

# From the top down: a room imports only itself and rooms above it.
ROOMS = (
    "ground",
    "program",
    "preprocessing",
    "data",
    "runtime",
    "layers",
    "parameters",
    "adapters",
    "network",
    "perturbations",
    "metrics",
    "statistics",
    "sampling",
    "porting",
    "networks",
    "results",
    "design",
    "counts",
    "execution",
    "summary",
    "storage",
    "costing",
    "rounds",
    "sweeps",
    "training",
    "figures",
    "report",
    "bars",
    "cli",
    "__main__",
    "__init__",
)


def room_of(module: str) -> str:
    """The room of a dotted module below the package: a file, a folder or, if neither, `__init__`.

    A name that is no room can only be something that `jaxrobust/__init__.py` itself offers.
    """
    first = module.split(".")[0]
    return first if first in ROOMS else "__init__"


def imported_modules(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Every (line, dotted module) that a file imports, wherever in the file it does so.

    Args:
        tree: the parsed file.
        package: the parts of the dotted package that relative imports count from.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = package[: len(package) - level + 1] if level else []
                base = ".".join([*start, *([module] if module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[argument, *_]):
                if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def violations(package: Path) -> list[str]:
    """One line for each import against the direction, and for each file that is in no room."""
    found = []
    for file in sorted(package.rglob("*.py")):
        inside = file.relative_to(package).with_suffix("").parts
        place = file.relative_to(package.parent)
        if inside[0] not in ROOMS:
            found.append(f"{place}: no room is named {inside[0]}")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line, module in imported_modules(tree, [package.name, *inside[:-1]]):
            top, _, below = module.partition(".")
            if top == package.name and ROOMS.index(room_of(below)) > ROOMS.index(inside[0]):
                found.append(f"{place}:{line}: {inside[0]} imports {module}")
    return found


def imports_between_modules(package: Path) -> dict[str, set[str]]:
    """For each module of a package those of the same package that it imports, by dotted name."""
    files = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        parts = file.relative_to(package.parent).parts[:-1]
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = {module for _, module in imported_modules(tree, list(parts))}
        # `from package.module import name` is an import of the module.
        modules = {each if each in files else each.rpartition(".")[0] for each in named}
        # Of a module in another package, that package's first file runs before it.
        modules |= {
            parent
            for each in modules
            for parent in _parents(each)
            if not (name == parent or name.startswith(f"{parent}."))
        }
        found[name] = modules & set(files) - {name}
    return found


def _parents(module: str) -> list[str]:
    """The packages that a module is in, the innermost first."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next and the last the first; empty if there are none."""
    sorter = graphlib.TopologicalSorter(imports)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_modules_import_each_other_in_a_circle():
    imports = imports_between_modules(PACKAGE)
    assert len(imports) > 100
    # What a package's first file offers is loaded when it is asked for.
    del imports["jaxrobust"]
    assert circle(imports) == []


def test_a_circle_is_named(tmp_path: Path):
    package = tmp_path / "house"
    package.mkdir()
    for name, line in {"a": "from house.b import x", "b": "from . import c", "c": ""}.items():
        (package / f"{name}.py").write_text(line)
    assert circle(imports_between_modules(package)) == []
    (package / "c.py").write_text("def f():\n    import house.a")
    assert set(circle(imports_between_modules(package))) == {"house.a", "house.b", "house.c"}


@pytest.mark.parametrize("top", ["jaxrobust", "scripts", "tests"])
def test_no_folder_is_crowded(top: str):
    folders = [PACKAGE.parent / top, *(PACKAGE.parent / top).rglob("*/")]
    sizes = {str(folder): sum(1 for _ in folder.glob("*.py")) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > MOST_FILES} == {}


@pytest.mark.parametrize("top", ["jaxrobust", "scripts", "tests"])
def test_no_file_is_long(top: str):
    files = list((PACKAGE.parent / top).rglob("*.py"))
    lengths = {str(file): len(file.read_text("utf-8").splitlines()) for file in files}
    assert files and {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_every_room_imports_only_rooms_above_it():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    "line",
    [
        "import jaxrobust",
        "import jaxrobust.execution",
        "import numpy, jaxrobust.execution.run as run",
        "from jaxrobust import sweep",
        "from jaxrobust import execution",
        "from jaxrobust.execution import run",
        "from jaxrobust.execution.run import sweep",
        "from .. import execution",
        "from .. import sweep",
        "from ..execution import run",
        "from ..execution.run import sweep",
        "if True:\n    from jaxrobust import execution",
        "def lazily():\n    from jaxrobust import execution",
        "async def lazily():\n    import jaxrobust.execution",
        "import importlib\nimportlib.import_module('jaxrobust.execution.run')",
    ],
)
def test_an_import_of_a_room_below_is_caught(tmp_path: Path, line: str):
    file = tmp_path / "jaxrobust" / "data" / "sources.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    [found] = violations(tmp_path / "jaxrobust")
    assert found.startswith("jaxrobust/data/sources.py:") and "data imports jaxrobust" in found


@pytest.mark.parametrize(
    "line",
    [
        "import numpy, jax.numpy",
        "import jaxrobust.ground.errors",
        "from jaxrobust import ground, preprocessing",
        "from jaxrobust.preprocessing import Preprocessing",
        "from jaxrobust.data import cache",
        "from . import cache",
        "from .cache import Cache",
        "from ..ground.errors import SpecificationError",
        "from execution import run",
        "import jaxrobustness.execution",
    ],
)
def test_an_import_of_the_same_room_or_one_above_is_not(tmp_path: Path, line: str):
    file = tmp_path / "jaxrobust" / "data" / "sources.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert violations(tmp_path / "jaxrobust") == []


def test_a_file_in_no_room_is_caught(tmp_path: Path):
    (tmp_path / "jaxrobust").mkdir()
    (tmp_path / "jaxrobust" / "utilities.py").touch()
    assert violations(tmp_path / "jaxrobust") == [
        "jaxrobust/utilities.py: no room is named utilities"
    ]
