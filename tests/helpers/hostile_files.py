"""Feeds mutated weight files to the readers, in a process of its own: `hostile_files.py SEED NUMBER
[FORMAT…]` ends with an error as soon as a reader does anything but read or refuse a file.

The process may set aside little memory, and an audit hook watches what Python does.
"""

import io
import resource
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from weight_files import (
    Call,
    Name,
    Raw,
    Saved,
    archive,
    blob,
    caffemodel,
    hdf5,
    old_pth,
    pickled,
    pth_members,
    safetensors,
)

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting import read_weights

SPARE_MEMORY = 512 * 2**20
# What running something would look like; reading a file does none of it.
FORBIDDEN = (
    "exec",
    "import",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "socket",
    "subprocess",
)

Random = np.random.Generator
Mutation = Callable[[bytes], bytes]

KERNEL = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
BIAS = np.arange(4, dtype=np.float32)
RUN = Call(Name("posix", "system"), ("touch ran",))
STATE = {
    "state_dict": {
        "a": Saved(KERNEL.ravel(), (4, 3, 2), (6, 2, 1)),
        "b": Saved(KERNEL.ravel(), (2, 3), (1, 2)),
        "c": Saved(BIAS.astype(np.uint16)),
    },
    "epoch": 3,
    "list": [1.5, None, True, (1, "text")],
}


def mutated(content: bytes, random: Random) -> bytes:
    """A file's content with one to four changes of the kinds that break readers."""
    made = bytearray(content)
    for _ in range(random.integers(1, 5)):
        if not made:
            break
        place, other = random.integers(len(made), size=2)
        width = int(2 ** random.integers(0, 6))
        match random.integers(8):
            case 0:
                made[place] ^= 1 << random.integers(8)
            case 1:
                made[place] = random.integers(256)
            case 2:  # a length or an offset
                width = int(2 ** random.integers(0, 4))
                bits = 8 * width
                numbers = (2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, len(made), 0, 1)
                number = int(random.choice(np.array(numbers, object))) % 2**bits
                order = "little" if random.integers(4) else "big"
                made[place : place + width] = number.to_bytes(width, order)
            case 3:
                made[place : place + width] = made[other : other + width]
            case 4:
                made[place:place] = made[other : other + width]
            case 5:
                del made[place : place + width]
            case 6:
                made[place:place] = random.bytes(width)
            case 7 if random.integers(4) == 0:
                del made[place:]
    return bytes(made)


def _npz(mutate: Mutation, random: Random) -> bytes:
    """An archive with mutated members half of the time: a checksum guards them."""
    stream = io.BytesIO()
    np.savez(stream, a=KERNEL, b=BIAS)
    return _in_archive(stream.getvalue(), mutate, random)


def _in_archive(content: bytes, mutate: Mutation, random: Random) -> bytes:
    if random.integers(2):
        return mutate(content)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {member.filename: file.read(member) for member in file.infolist()}
    victim = str(random.choice(list(members)))
    method = zipfile.ZIP_DEFLATED if random.integers(4) == 0 else zipfile.ZIP_STORED
    return archive(members | {victim: mutate(members[victim])}, method)


def _new_pth(mutate: Mutation, random: Random) -> bytes:
    members = pth_members(STATE)
    if random.integers(8) == 0:
        members["archive/data.pkl"] = pickled({"a": RUN, "b": Raw(b")\x94N\x94")})
    if random.integers(2):
        return archive(members | {"archive/data.pkl": mutate(members["archive/data.pkl"])})
    return _in_archive(archive(members), mutate, random)


def _old_pth(mutate: Mutation, random: Random) -> bytes:
    return mutate(old_pth(STATE if random.integers(8) else {"a": RUN}))


def _caffemodel(mutate: Mutation, random: Random) -> bytes:
    legacy, v1 = map(bool, random.integers(2, size=2))
    masked = [blob(array, legacy) for array in (KERNEL, BIAS, KERNEL > 3, BIAS > 1)]
    plain = [blob(KERNEL.astype(np.float64), legacy), blob(BIAS, legacy)]
    return mutate(caffemodel([("data", []), ("a", plain), ("b", masked)], v1))


def _safetensors(mutate: Mutation, random: Random) -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [4, 3, 2], "data_offsets": [0, 96]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [96, 104]},
    }
    return mutate(safetensors(header, bytes(range(104))))


def _hdf5(folder: Path) -> Callable[[Mutation, Random], bytes]:
    places = {"conv1/conv1/kernel:0": KERNEL, "conv1/conv1/bias:0": BIAS, "fc/fc_W": KERNEL}
    # The newer layout guards its descriptions with checksums, so it is worth fewer tries.
    sound = [
        hdf5(folder / "sound.h5", places, libver).read_bytes()
        for libver in ("earliest", "earliest", "earliest", "latest")
    ]
    return lambda mutate, random: mutate(sound[random.integers(len(sound))])


def _read(path: Path) -> None:
    """Reads a file whole, or is refused in one line."""
    try:
        arrays = dict(read_weights(path))
    except SpecificationError as error:
        text, cause = str(error), error.__cause__
        if not text.isprintable() or len(text) > 400 + len(str(path)):
            raise AssertionError(f"not one short line: {text!r}") from error
        if isinstance(cause, MemoryError | RecursionError):
            raise AssertionError(f"refused too late: {cause!r}") from error
    else:
        taken = sum(array.nbytes for array in arrays.values())
        if taken > 16 * path.stat().st_size:
            raise AssertionError(f"{taken:,} bytes from a file of {path.stat().st_size:,}")


def main(first: int, number: int, formats: list[str], folder: Path) -> None:
    """Reads the mutated files of the seeds from `first` on."""
    makers = {
        ".npz": _npz,
        ".pth": _new_pth,
        ".th": _old_pth,
        ".caffemodel": _caffemodel,
        ".safetensors": _safetensors,
        ".h5": _hdf5(folder),
    }
    endings = formats or list(makers)
    for ending in endings:  # everything is imported before the watch begins
        path = folder / f"sound{ending}"
        path.write_bytes(makers[ending](lambda content: content, np.random.default_rng(2)))
        _read(path)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(FORBIDDEN):
            raise SystemExit(f"the reader did {event} {arguments!r:.200}")

    sys.addaudithook(watch)
    if sys.platform == "linux":  # elsewhere, there is no such limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for seed in range(first, first + number):
        random = np.random.default_rng(seed)
        ending = endings[seed % len(endings)]
        path = folder / f"mutated{ending}"
        path.write_bytes(makers[ending](lambda content, r=random: mutated(content, r), random))
        try:
            _read(path)
        except BaseException:
            print(f"seed {seed} of {ending}", file=sys.stderr)
            raise


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:], Path(name))
