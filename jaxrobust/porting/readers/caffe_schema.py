"""The part of Caffe's protocol-buffer schema that weights need, under Caffe's field numbers.

Packed numbers are declared as bytes, which look the same on the wire: NumPy then takes them over
as they are, and no Python object is made for each. (`repeated`, because a writer may split them.)
So are names, because a string that is no text would come back as bytes unannounced.
"""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_FIELD = FieldDescriptorProto
_SCALARS = {
    "bytes": _FIELD.TYPE_BYTES,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
}

# Message -> field -> its number and type; a type in brackets is repeated.
_MESSAGES = {
    "BlobShape": {"dim": (1, "[int64]")},
    "Blob": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "[bytes]"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "[bytes]"),
    },
    "V1Layer": {"name": (4, "bytes"), "blobs": (6, "[Blob]")},
    "Layer": {"name": (1, "bytes"), "blobs": (7, "[Blob]")},
    "Network": {"layers": (2, "[V1Layer]"), "layer": (100, "[Layer]")},
}


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="jaxrobust/caffe.proto", package="jaxrobust", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            repeated = kind.startswith("[")
            kind = kind.strip("[]")
            field = described.field.add(name=name, number=number)
            field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".jaxrobust.{kind}"
    return file


def _network_class() -> type:
    # A pool of its own: the default one may know Caffe's whole schema already.
    pool = DescriptorPool()
    pool.Add(_file())
    return GetMessageClass(pool.FindMessageTypeByName("jaxrobust.Network"))


Network = _network_class()
