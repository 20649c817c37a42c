"""Labelled images from a source string such as `tar:photographs.tar`."""

from jaxrobust.data.given import images
from jaxrobust.data.kinds import folder, glyphs, imagenet_val, npz, tar, tfds  # each registers
from jaxrobust.data.kinds.arrays import ArrayStore
from jaxrobust.data.kinds.encoded import EncodedStore, Item
from jaxrobust.data.registry import SOURCES, register
from jaxrobust.data.source import ImageSource
from jaxrobust.data.store import Store

__all__ = [
    "SOURCES",
    "ArrayStore",
    "EncodedStore",
    "ImageSource",
    "Item",
    "Store",
    "folder",
    "glyphs",
    "imagenet_val",
    "images",
    "npz",
    "register",
    "tar",
    "tfds",
]
