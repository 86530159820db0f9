"""Read a torch.save file into NumPy arrays without torch: the zip layout, and the layout before torch 1.6.

Files may come from strangers. Every size that a file claims is checked against its real size before memory is
allocated. Only the numbers of the state_dict are read, which is at most the size of the file.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from saddle_jax.errors import CheckpointError
from saddle_jax.weights import pickles

MAX_FILE = 4 * 2**30  # bytes; a ResNet-152 with its momentum takes half a gigabyte
MAX_PICKLE = 16 * 2**20  # bytes of everything except the tensors' numbers
MAX_DIRECTORY = 2**20  # bytes of the zip file's table of contents
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8
MAX_NAME = 200

# Entries in which training scripts keep the weights, in the order in which they are taken: averages come last.
_WEIGHTS = ("state_dict", "model", "model_state_dict", "net", "state_dict_ema", "model_ema", "ema")
_LEGACY_HEADER = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."  # magic number, version 1001
# Errors while reading. Our own are plain ValueErrors that say what was found; all others mean a damaged file.
_REFUSED = (
    *(ValueError, TypeError, LookupError, OSError, EOFError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile),
)

ReadStorage = Callable[[pickles.Storage], bytes]


class _TorchScriptError(ValueError):
    """The file holds a network as torch.jit.save writes it."""


class TorchFile(NamedTuple):
    """Parts of a checkpoint that an import needs."""

    tensors: dict[str, np.ndarray]  # with PyTorch's names and layouts; views of read-only memory
    epoch: int | None  # number of epochs trained
    arch: str | None
    part: str | None  # entry of the file that holds the tensors, or None if the file is a bare state_dict
    others: tuple[str, ...]  # further entries that hold weights


def read(path: pathlib.Path) -> TorchFile:
    """Read the weights of a checkpoint, or a bare state_dict. Other tensors in the file are not read.

    Raises:
      CheckpointError: the file is not a checkpoint, is damaged, or asks for functions that tensors do not need.
    """
    try:
        if not path.is_file():
            raise ValueError("found no file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE:
                raise ValueError(f"found {size:,} bytes, expected at most {MAX_FILE:,}")
            start = file.read(len(_LEGACY_HEADER))
            if start[:4] == b"PK\3\4":
                return _read_zip(file, size)
            if start == _LEGACY_HEADER:
                return _read_legacy(file, size)
            file.seek(257)
            kind = (
                "a tar file, torch's format before 2017" if file.read(5) == b"ustar" else "neither of torch's formats"
            )
            raise ValueError(f"found {kind}")
    except _REFUSED as error:
        known = type(error) in (ValueError, _TorchScriptError)
        told = str(error) if known else f"damaged ({type(error).__name__}: {str(error)[:200]})"
        fix = "in the code that trained the model, call torch.save({'state_dict': model.state_dict(), 'epoch': epoch}"
        if isinstance(error, _TorchScriptError):
            state_dict = f"torch.jit.load({str(path)!r}, map_location='cpu').state_dict()"
            fix = f"if you trust the file, call torch.save({state_dict}"
        raise CheckpointError(
            f"{str(path)!r} was refused, and nothing in it was run: {told}. Fix: {fix}, NEW_FILE)"
        ) from error


def _read_zip(file: BinaryIO, size: int) -> TorchFile:
    if (listed := _directory_size(file, size)) > MAX_DIRECTORY:  # before zipfile reads all of it
        raise ValueError(f"found a table of contents of {listed:,} bytes, expected at most {MAX_DIRECTORY:,}")
    with zipfile.ZipFile(file) as archive:
        if _is_torchscript(archive):
            raise _TorchScriptError(
                "found a TorchScript archive, which holds code beside the weights. OpenAI's own files of CLIP are such"
            )
        members = _members(archive, size)
        if "data.pkl" not in members:
            raise ValueError("found a zip file without data.pkl, which torch.save did not write")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("found numbers in big-endian byte order")
        if members["data.pkl"].file_size > MAX_PICKLE:
            raise ValueError(
                f"found a data.pkl of {members['data.pkl'].file_size:,} bytes, expected at most {MAX_PICKLE:,}"
            )
        content = pickles.load(io.BytesIO(archive.read(members["data.pkl"])))

        def read_storage(storage: pickles.Storage) -> bytes:
            member = members[f"data/{storage.key}"]
            if member.file_size != storage.length * _dtype(storage).itemsize:
                raise ValueError(
                    f"storage {storage.key[:80]!r} claims {storage.length:,} numbers of {storage.dtype}, "
                    f"but its part of the file has {member.file_size:,} bytes"
                )
            return archive.read(member)  # also verifies the checksum

        return _torch_file(content.value, read_storage)


def _directory_size(file: BinaryIO, size: int) -> int:
    """Return the size of a zip file's table of contents, as stated in the one place where every reader looks for it."""
    file.seek(max(0, size - 98))
    tail = file.read(98).rjust(98, b"\0")
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise ValueError("found a truncated zip file, without an end record")
    if tail[-42:-38] != b"PK\6\7":
        return struct.unpack("<L", tail[-10:-6])[0]
    if tail[:4] != b"PK\6\6" or struct.unpack("<Q", tail[-34:-26])[0] != size - 98:  # zip64, which torch writes
        raise ValueError("found a zip end record that refers elsewhere")
    return struct.unpack("<Q", tail[40:48])[0]


def _is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Return whether an archive has what torch.jit.save writes beside the tensors: the network's code."""
    return any(name.partition("/")[2].startswith(("code/", "constants.pkl")) for name in archive.namelist())


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return {name without the common folder: member}; refuse an archive that torch would not write."""
    members: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for member in archive.infolist():
        parts = member.orig_filename.split("/")
        if len(parts) < 2 or {"", ".", ".."} & set(parts) or set(member.orig_filename) & set("\\\0"):
            raise ValueError(f"found a member named {member.orig_filename[:80]!r}")
        folders.add(parts[0])
        name = "/".join(parts[1:])
        if name in members:
            raise ValueError(f"found two members named {name[:80]!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"found a compressed member, {name[:80]!r}; torch compresses nothing")
        members[name] = member
    if len(folders) > 1:
        raise ValueError(f"found {len(folders)} folders in the archive, expected one")
    if sum(member.file_size for member in members.values()) > size:
        raise ValueError("found members that add up to more than the file")
    return members


def _read_legacy(file: BinaryIO, size: int) -> TorchFile:
    """Read the legacy layout: three pickles (system, content, storage order), then each storage (length, numbers)."""
    start = len(_LEGACY_HEADER)
    file.seek(start)
    head = io.BytesIO(file.read(MAX_PICKLE))
    system, content, keys = pickles.load(head).value, pickles.load(head), pickles.load(head).value
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("found numbers in big-endian byte order")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError("found no list of distinct storages")
    places: dict[str, int] = {}
    place = start + head.tell()
    for storage in (content.storages[key] for key in keys):
        file.seek(place)
        (length,) = struct.unpack("<q", file.read(8))
        places[storage.key] = place + 8
        place += 8 + storage.length * _dtype(storage).itemsize
        if length != storage.length or length < 0 or place > size:
            raise ValueError(f"storage {storage.key[:80]!r} claims {storage.length:,} numbers, but the file has fewer")

    def read_storage(storage: pickles.Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.length * _dtype(storage).itemsize)

    return _torch_file(content.value, read_storage)


def _torch_file(root: Any, read_storage: ReadStorage) -> TorchFile:
    if not isinstance(root, dict):
        raise ValueError("found no state_dict")
    part, *others = [name for name in _WEIGHTS if isinstance(root.get(name), dict)] or [None]
    state = root if part is None else root[part]
    if not state:
        raise ValueError("found no state_dict")
    if len(state) > MAX_TENSORS:
        raise ValueError(f"found {len(state):,} tensors, expected at most {MAX_TENSORS:,}")
    storages: dict[str, bytes] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, record in state.items():
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise ValueError(f"found a tensor named {str(name)[:80]!r}")
        if not isinstance(record, pickles.Tensor):
            raise ValueError(f"found {name!r} of type {type(record).__name__}, expected a tensor of the state_dict")
        try:
            _check(record)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
        storage = record.storage
        if storage.key not in storages:
            storages[storage.key] = read_storage(storage)
        tensors[name] = _array(record, storages[storage.key])
    epoch, arch = (root.get(key) if state is not root else None for key in ("epoch", "arch"))
    known = type(epoch) is int and 0 <= epoch < 10**6
    return TorchFile(
        tensors, epoch if known else None, arch[:MAX_NAME] if isinstance(arch, str) else None, part, tuple(others)
    )


def _check(tensor: pickles.Tensor) -> None:
    storage, offset, shape, strides = tensor
    whole = [offset, *shape, *strides] if isinstance(shape, tuple) and isinstance(strides, tuple) else [None]
    if not isinstance(storage, pickles.Storage) or not all(type(number) is int for number in whole):
        raise ValueError("its place in the file is not given as torch.save gives it")
    if min(whole) < 0 or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"shape {shape[:9]}, strides {strides[:9]}, and offset {offset} do not describe a tensor")
    extent = 1  # numbers spanned so far; in order of stride, each dimension must step over all smaller ones
    for length, stride in sorted(zip(shape, strides, strict=True), key=lambda pair: pair[1]):
        if length > 1 and stride < extent:
            raise ValueError(f"shape {shape} with strides {strides} uses the same numbers more than once")
        extent += max(0, length - 1) * stride
    if offset + (extent if math.prod(shape) else 0) > storage.length:
        raise ValueError(f"shape {shape} with strides {strides} at {offset} is beyond its {storage.length:,} numbers")


def _array(tensor: pickles.Tensor, buffer: bytes) -> np.ndarray:
    dtype = _dtype(tensor.storage)
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, dtype)
    places = zip(tensor.shape, tensor.strides, strict=True)
    strides = tuple(dtype.itemsize * (stride if length > 1 else 1) for length, stride in places)
    return np.ndarray(tensor.shape, dtype, buffer, tensor.offset * dtype.itemsize, strides)


def _dtype(storage: pickles.Storage) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)
