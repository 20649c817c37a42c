"""What PyTorch's files may name beside tensors: settings, dates and the like, which are skipped.

Nothing of it is imported or run. What has no business in a weight file is refused all the same,
because whoever wrote such a file should not be trusted with its numbers either.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from jaxrobust.porting.readers.pickles import Skipped
from jaxrobust.porting.readers.tensors import KNOWN

_PLAIN_TYPES = (
    "bool|bytearray|bytes|complex|dict|float|frozenset|int|list|long|object|range|set|slice|str|"
    "tuple|type|unicode|xrange|Ellipsis|NotImplemented"
)
_NUMPY_TYPES = (
    r"(bool|bytes|cdouble|clongdouble|complex|csingle|datetime|double|dtype|float|generic|half|int|"
    r"intc|intp|longdouble|longlong|matrix|memmap|ndarray|object|recarray|record|short|single|str|"
    r"timedelta|ubyte|uint|uintc|uintp|ulonglong|ushort|void)\d*_?"
)
_TORCH_VALUES = (
    r"Size|device|Generator|(b?float|int|uint|complex|q?u?int)\d+(_e\w+)?|bool|half|double|float|"
    r"long|short|int|cfloat|cdouble|\w+_format|channels_last|channels_last_3d|strided|sparse_\w+"
)

# Modules of the standard library, NumPy and PyTorch, and what may be named of them.
_HARMLESS = {
    r"builtins|__builtin__": _PLAIN_TYPES,
    r"copy_?reg": "_reconstructor|__newobj__|__newobj_ex__",
    r"_codecs": "encode",
    r"argparse": "Namespace",
    r"types": "SimpleNamespace|MappingProxyType|NoneType",
    r"functools": "partial",
    r"itertools": "count|repeat",
    r"random": "Random",
    r"time": "struct_time",
    r"re": "_compile",
    r"array": "array|_array_reconstructor",
    r"collections|datetime|_?decimal|fractions|uuid|typing|enum|ipaddress": r"\w+",
    r"(pathlib|zoneinfo)(\.\w+)*": r"\w+",
    r"numpy": _NUMPY_TYPES,
    r"numpy\._?core\.multiarray": "_reconstruct|scalar",
    r"numpy\._?core\.numeric": "_frombuffer",
    r"numpy\.ma(\.core)?": "_mareconstruct|MaskedArray",
    r"numpy\.(dtypes|rec|random(\.\w+)*)": r"\w+",
    r"torch": _TORCH_VALUES,
    r"torch\.serialization": "_get_layout",
    r"torch\.torch_version": "TorchVersion",
    r"torch\.(nn|optim|amp|cuda\.amp)(\.\w+)*": r"\w+",
}
_HARMLESS_NAMES = [(re.compile(module), re.compile(name)) for module, name in _HARMLESS.items()]
_LIBRARIES = {*sys.stdlib_module_names, "__builtin__", "copy_reg", "numpy", "torch"}


def stands_for(module: str, name: str) -> Any:
    """What stands for a name in a pickle of PyTorch's.

    Args:
        module, name: `collections` and `OrderedDict`, say.

    Returns:
        A stand-in for what state dictionaries need; `Skipped` for a harmless type, and for
        whatever the file's author has defined or installed; None for anything else of the
        standard library, NumPy and PyTorch.
    """
    qualified = f"{module}.{name}"
    if qualified in KNOWN:
        return KNOWN[qualified]
    if qualified in ("builtins.getattr", "__builtin__.getattr"):
        return _attribute
    if module.split(".")[0] not in _LIBRARIES:
        return Skipped(qualified) if module and name else None
    for modules, names in _HARMLESS_NAMES:
        if modules.fullmatch(module) and names.fullmatch(name):
            return Skipped(qualified)
    return None


def _attribute(owner: Any, name: Any) -> Skipped:
    """How a class inside another class is named."""
    if not isinstance(owner, Skipped):
        raise ValueError("it asks for 'builtins.getattr', which weights don't need")
    return Skipped(f"{owner.name}.{name!s:.80}")
