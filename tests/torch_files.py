"""Files as torch.save writes them, and as it never would, put together by hand: no torch needed.

A piece of pickle is bytes that leave one value on the stack.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile

import numpy as np

_KINDS = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def value(plain) -> bytes:
    """Return the piece that makes plain numbers, text, tuples, lists, dictionaries."""
    return pickletools.optimize(pickle.dumps(plain, 2))[2:-1]


def call(name: str, *arguments: bytes) -> bytes:
    """Return the piece that calls a function."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(key: str, length: int, kind: str = "FloatStorage") -> bytes:
    """Return the piece that refers to a storage."""
    return b"(" + value("storage") + f"ctorch\n{kind}\n".encode() + b"".join(map(value, (key, "cpu", length))) + b"tQ"


def tensor(
    key: str, shape: tuple, strides: tuple | None = None, *, length=None, offset=0, kind="FloatStorage"
) -> bytes:
    """Return the piece that makes a tensor; by default contiguous and the whole of its storage."""
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))) if strides is None else strides
    source = storage(key, math.prod(shape) if length is None else length, kind)
    rest = [value(offset), value(shape), value(strides), value(False), mapping({})]
    return call("torch._utils._rebuild_tensor_v2", source, *rest)


def mapping(items: dict[str, bytes]) -> bytes:
    """Return the piece that makes an OrderedDict."""
    return call("collections.OrderedDict") + b"(" + b"".join(value(k) + v for k, v in items.items()) + b"u"


def whole(piece: bytes) -> bytes:
    """Return a pickle."""
    return b"\x80\x02" + piece + b"."


def checkpoint(piece: bytes) -> bytes:
    """Return the pickle of {"state_dict": ...}."""
    return whole(mapping({"state_dict": piece}))


def archive(pickled: bytes, storages: dict[str, bytes] | None = None, *, byteorder="little", **members) -> bytes:
    """Return torch's zip file; `members` are further ones, by their whole names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/byteorder", byteorder)
        for key, content in (storages or {}).items():
            out.writestr(f"archive/data/{key}", content)
        for name, content in members.items():
            out.writestr(name, content)
    return file.getvalue()


def of_arrays(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a checkpoint of arrays under PyTorch's names and in its layouts."""
    pieces = {
        name: tensor(str(k), array.shape, kind=_KINDS[array.dtype.name])
        for k, (name, array) in enumerate(arrays.items())
    }
    return archive(checkpoint(mapping(pieces)), {str(k): array.tobytes() for k, array in enumerate(arrays.values())})


def legacy(root: bytes, keys: list[str], storages: dict[str, bytes], *, little_endian=True) -> bytes:
    """Return the layout before torch 1.6, of float32."""
    start = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        whole(value({"little_endian": little_endian})),
    ]
    numbers = [struct.pack("<q", len(storages[key]) // 4) + storages[key] for key in keys]
    return b"".join([*start, root, whole(value(keys)), *numbers])
