"""The files of decoded images: found, damaged, dropped, written by several at once."""

import os
import pwd
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrobust as jr
from jaxrobust.data.decoded import cache
from jaxrobust.data.decoded.cache import BlockCache
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.networks.download import download

ARRAY = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)


def names(folder):
    return sorted(path.stem for path in folder.iterdir())


def age(folder, **seconds):
    for key, ago in seconds.items():
        os.utime(folder / f"{key}.pixels", times=(time.time() - ago,) * 2)


def test_what_was_added_is_found_by_another(tmp_path):
    assert BlockCache(tmp_path / "new", 1e9).add("a", ARRAY) == "kept"
    other = BlockCache(tmp_path / "new", 1e9)
    found = other.get("a", ARRAY.shape)
    assert found is not None and not found.flags.writeable
    np.testing.assert_array_equal(found, ARRAY)
    assert (
        other.has("a", ARRAY.shape)
        and not other.has("b", ARRAY.shape)
        and other.get("b", ARRAY.shape) is None
    )


@pytest.mark.parametrize("length", [0, 5, 100, -1, -4])
def test_a_truncated_file_is_not_there(tmp_path, length):
    BlockCache(tmp_path, 1e9).add("a", ARRAY)
    file = tmp_path / "a.pixels"
    file.write_bytes(file.read_bytes()[:length])
    assert not BlockCache(tmp_path, 1e9).has("a", ARRAY.shape)
    assert BlockCache(tmp_path, 1e9).get("a", ARRAY.shape) is None


def test_a_flipped_byte_is_noticed(tmp_path):
    BlockCache(tmp_path, 1e9).add("a", ARRAY)
    whole = (tmp_path / "a.pixels").read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        (tmp_path / "a.pixels").write_bytes(damaged)
        assert BlockCache(tmp_path, 1e9).get("a", ARRAY.shape) is None


def test_the_least_recently_used_files_are_dropped(tmp_path):
    size = ARRAY.nbytes + 4
    small = BlockCache(tmp_path, 3 * size)
    for key in "abc":
        small.add(key, ARRAY)
    age(tmp_path, a=3000, b=2000, c=1000)
    assert small.has("a", ARRAY.shape)  # this is a use
    small.add("d", ARRAY)
    assert names(tmp_path) == ["a", "c", "d"]


def test_files_in_use_are_not_dropped_and_the_limit_holds(tmp_path):
    full = BlockCache(tmp_path, 2 * (ARRAY.nbytes + 4))
    assert [full.add(key, ARRAY) for key in "abc"] == ["kept", "kept", "full"]
    assert names(tmp_path) == ["a", "b"]
    age(tmp_path, a=590, b=610)
    assert full.add("d", ARRAY) == "kept"
    assert names(tmp_path) == ["a", "d"]


def test_unfinished_files_of_a_dead_process_are_dropped_in_the_end(tmp_path):
    (tmp_path / "x.tmp").write_bytes(b"unfinished")
    os.utime(tmp_path / "x.tmp", times=(0, 0))
    BlockCache(tmp_path, ARRAY.nbytes + 4).add("a", ARRAY)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "a.pixels")
    found = BlockCache(tmp_path, 1e9)
    assert not found.has("a", ARRAY.shape) and found.get("a", ARRAY.shape) is None
    assert found.add("a", ARRAY) == ("kept" if make is os.mkfifo else "unwritable")


def test_a_mapped_array_outlives_its_file(tmp_path):
    BlockCache(tmp_path, 1e9).add("a", ARRAY)
    found = BlockCache(tmp_path, 1e9).get("a", ARRAY.shape)
    (tmp_path / "a.pixels").unlink()
    np.testing.assert_array_equal(found, ARRAY)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    nowhere = BlockCache(tmp_path / "file" / "below", 1e9)
    assert nowhere.add("a", ARRAY) == "unwritable" and not nowhere.has("a", ARRAY.shape)


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_checksum", full)  # called in the middle of writing
    assert BlockCache(tmp_path, 1e9).add("a", ARRAY) == "unwritable"
    assert names(tmp_path) == []


def test_readers_and_writers_at_once(tmp_path):
    """Every array that is found is whole, while others write and drop the same files."""
    arrays = {key: np.full((40, 40), number, np.uint8) for number, key in enumerate("abcd")}
    found, wrong = 0, []
    stop = threading.Event()

    def drop():
        dropping = BlockCache(tmp_path, 0)
        while not stop.is_set():
            for key in arrays:
                try:
                    age(tmp_path, **{key: 1000})
                except FileNotFoundError:
                    continue
            dropping.add("other", ARRAY)

    def write():
        while not stop.is_set():
            for key, array in arrays.items():
                BlockCache(tmp_path, 1e9).add(key, array)

    threads = [threading.Thread(target=work) for work in (drop, write, write)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 1
    while time.monotonic() < end or not found:
        for key, array in arrays.items():
            read = BlockCache(tmp_path, 1e9).get(key, array.shape)
            if read is not None:
                found += 1
                if not np.array_equal(read, array):
                    wrong.append(key)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and found


def test_where_the_cache_lies(monkeypatch, tmp_path):
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("JAXROBUST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "jaxrobust"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "jaxrobust"
    monkeypatch.setenv("JAXROBUST_CACHE", "~/mine")
    assert cache.cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: ignore it
    monkeypatch.delenv("JAXROBUST_CACHE")
    assert cache.cache_folder() == tmp_path / ".cache" / "jaxrobust"


def evaluated():
    pixels, labels = np.repeat(ARRAY[:, :3], 2, axis=0), np.arange(10) % 3
    network = jr.Network(
        lambda params, x: x.mean((1, 2)) @ params["dense"]["w"],
        {"dense": {"w": np.eye(3, dtype=np.float32)}},
        name="mean",
        preprocessing=jr.Preprocessing(size=(3, 3)),
    )
    return jr.evaluate(network, (pixels, labels))


@pytest.fixture
def without_programs(monkeypatch):
    """As in a new process, where JAX's cache of programs is not configured yet."""
    folder = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("JAXROBUST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


# A name that is too long fails where a folder without permission does, for the root user too.
@pytest.mark.parametrize("home", ["/dev/null", "/" + 300 * "x"])
def test_a_home_folder_that_cannot_be_used_is_no_obstacle(without_programs, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    with pytest.warns(UserWarning, match=r"the cache of images in .* cannot be written"):
        assert evaluated().images == 10


def test_no_home_folder_is_no_obstacle(without_programs, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.warns(UserWarning, match="nothing is kept .*: there is no home folder"):
        assert evaluated().images == 10
    with pytest.raises(SpecificationError, match="possible: JAXROBUST_CACHE=FOLDER"):
        download("https://example.invalid/weights.pth")


def test_the_environment_switches_it_off(monkeypatch):
    monkeypatch.setenv("JAXROBUST_CACHE_GB", "0")
    assert BlockCache.default() is None


@pytest.mark.parametrize("text", ["much", "-1", "nan", ""])
def test_a_limit_that_is_no_number(monkeypatch, text):
    monkeypatch.setenv("JAXROBUST_CACHE_GB", text)
    with pytest.raises(SpecificationError, match="JAXROBUST_CACHE_GB=.* must be a number"):
        BlockCache.default()


def test_the_default_limit_leaves_half_of_the_free_disk(monkeypatch, cache_folder: Path):
    def limit_with(free):
        monkeypatch.setattr(cache, "_free", lambda folder: free)
        default = BlockCache.default()
        assert default is not None and default.folder == cache_folder / "images"
        return default.limit

    assert limit_with(1e15) == 20e9
    assert limit_with(10e9) == 5e9
    # What the cache takes already counts as free.
    (cache_folder / "images").mkdir(parents=True)
    (cache_folder / "images" / "a.pixels").write_bytes(bytes(4000))
    assert limit_with(2000) == 3000
    monkeypatch.setenv("JAXROBUST_CACHE_GB", "0.5")
    assert limit_with(1000) == 5e8
