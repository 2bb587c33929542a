"""The formats of a run directory, read strictly and written in one move: text, JSON, .npy, .safetensors.

Corrupt files raise DataError with a message `FILE: what is wrong`; missing ones raise OSError. Nothing in them is run.
"""

from __future__ import annotations

import ast
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import numpy as np

from mnemo.errors import DataError, require

PathLike = Union[str, "os.PathLike[str]"]

SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
_DTYPE_NAMES = {np.dtype(code).newbyteorder("="): name for name, code in SAFETENSORS_DTYPES.items()}
MAP_FROM_BYTES = 1 << 20  # smaller files are read at once: each memory map holds a file descriptor
MAX_HEADER_BYTES = 1 << 22  # of a safetensors file: 40,000 tensors
MAX_NPY_HEADER_BYTES = 1 << 16
MAX_DIMENSIONS = 32


# Text -----------------------------------------------------------------------------------------------------------------


def read_text(path: PathLike) -> str:
    """Contents of a UTF-8 file; DataError when it is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise DataError("a key occurs twice in one object")
    return result


def parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no valid JSON: {error}") from None


def read_json(path: PathLike, kind: type = dict) -> Any:
    """The JSON value in a file, which must be of type `kind` (dict or list)."""
    value = parse_json(read_text(path), str(path))
    require(isinstance(value, kind), f"{path}: must hold a JSON {'object' if kind is dict else 'list'}")
    return value


def require_int(value: Any, what: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise DataError(f"{where}: {what} must be an integer >= 0, got {value!r}")
    return value


# .npy and .safetensors ------------------------------------------------------------------------------------------------


def _npy_header(file: Any, path: PathLike) -> tuple[np.dtype, tuple[int, ...], int]:
    """dtype, shape and the offset of the elements of an open .npy file."""
    magic = file.read(8)
    if len(magic) != 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise DataError(f"{path}: not a .npy file")
    length_bytes = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(length_bytes), "little")
    if length > MAX_NPY_HEADER_BYTES:
        raise DataError(f"{path}: header of {length} bytes")
    header = file.read(length)
    try:
        fields = ast.literal_eval(header.decode("latin-1" if magic[6] < 3 else "utf-8").strip())
        shape, dtype = fields["shape"], np.dtype(fields["descr"])
        valid = set(fields) == {"descr", "fortran_order", "shape"} and fields["fortran_order"] is False
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise DataError(f"{path}: broken .npy header") from None
    if len(header) != length or not valid or dtype.hasobject or not isinstance(shape, tuple):
        raise DataError(f"{path}: broken .npy header, Fortran order or objects")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise DataError(f"{path}: impossible shape {shape}")
    return dtype, shape, 8 + length_bytes + length


def read_npy(path: PathLike, dtype: Any = None, ndim: int | None = None) -> np.ndarray:
    """A read-only array from a .npy file; memory-mapped from 1 MiB on.

    Parameters
    ----------
    path
        The file may be longer than its header says (an append in flight), never shorter.
    dtype, ndim
        What the array must be; None accepts anything but objects.
    """
    with open(path, "rb") as file:
        found, shape, offset = _npy_header(file, path)
        size = os.fstat(file.fileno()).st_size
    if (dtype is not None and found != np.dtype(dtype)) or (ndim is not None and len(shape) != ndim):
        raise DataError(f"{path}: must be {np.dtype(dtype or found)} with {ndim} dimension(s), is {found} {shape}")
    count = math.prod(shape)
    if count * found.itemsize > size - offset:
        raise DataError(f"{path}: shorter than its header says: {found} {shape} in {size} bytes")
    try:
        if count * found.itemsize >= MAP_FROM_BYTES:
            return np.memmap(path, found, "r", offset, shape)
        array = np.fromfile(path, found, count, offset=offset).reshape(shape)
    except (ValueError, OverflowError) as error:  # sizes that NumPy cannot index, a file cut short this moment
        raise DataError(f"{path}: {error}") from None
    array.flags.writeable = False
    return array


def _safetensors_header(path: PathLike) -> tuple[dict[str, Any], int, int]:
    """The JSON header, the offset of the payload and its size."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > MAX_HEADER_BYTES:
            raise DataError(f"{path}: no safetensors file: header of {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = parse_json(text.decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise DataError(f"{path}: safetensors header is not UTF-8") from None
    require(isinstance(header, dict), f"{path}: safetensors header is no JSON object")
    return header, 8 + length, size - 8 - length


def _tensor_entry(name: str, entry: Any, payload: int, path: PathLike) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise DataError(f"{where} must have dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in SAFETENSORS_DTYPES:
        raise DataError(f"{where} has dtype {entry['dtype']!r}; known are {', '.join(SAFETENSORS_DTYPES)}")
    dtype = np.dtype(SAFETENSORS_DTYPES[entry["dtype"]])
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise DataError(f"{where}: impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise DataError(f"{where}: data_offsets must be [begin, end]")
    shape = tuple(require_int(n, "shape", where) for n in shape)
    begin, end = (require_int(n, "data_offsets", where) for n in offsets)
    if not begin <= end <= payload or math.prod(shape) * dtype.itemsize != end - begin:
        raise DataError(f"{where}: {dtype} {shape} does not fit bytes {begin}..{end} of {payload}")
    return begin, end, dtype, shape


def read_safetensors(path: PathLike) -> dict[str, np.ndarray]:
    """Read-only tensors by name, in file order; views of one buffer, memory-mapped from 1 MiB on.

    All lengths are checked against the file before anything is allocated; ranges must tile the payload without gap or
    overlap. The digest in `__metadata__` is not verified (XXH3 is not in NumPy).
    """
    header, offset, payload = _safetensors_header(path)
    entries = {n: _tensor_entry(n, entry, payload, path) for n, entry in header.items() if n != "__metadata__"}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][:2]):
        if entry[0] != end:
            raise DataError(f"{path}: tensor {name!r} leaves a gap or overlaps another at byte {entry[0]}")
        end = entry[1]
    if end != payload:
        raise DataError(f"{path}: {payload - end} bytes belong to no tensor")
    if payload >= MAP_FROM_BYTES:
        buffer = np.memmap(path, np.uint8, "r", offset, (payload,))
    else:
        buffer = np.fromfile(path, np.uint8, payload, offset=offset)
    if buffer.size != payload:
        raise DataError(f"{path}: the file became shorter while it was read")
    buffer.flags.writeable = False
    result = {}
    for name, (begin, end, dtype, shape) in entries.items():
        if dtype == np.bool_ and (buffer[begin:end] > 1).any():
            raise DataError(f"{path}: tensor {name!r} holds a BOOL other than 0 and 1")
        try:
            result[name] = buffer[begin:end].view(dtype).reshape(shape)
        except (ValueError, OverflowError):
            raise DataError(f"{path}: tensor {name!r} has an impossible shape {shape}") from None
    return result


def read_safetensors_metadata(path: PathLike) -> dict[str, str]:
    """The `__metadata__` of a safetensors file, {} where there is none."""
    metadata = _safetensors_header(path)[0].get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataError(f"{path}: __metadata__ must map strings to strings")
    return metadata


# Writing --------------------------------------------------------------------------------------------------------------


def write_atomically(path: PathLike, write: Callable[[Any], None], binary: bool = True) -> None:
    """Calls `write(file)` on a temporary file beside `path` and moves it there once it is whole."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") if binary else open(temporary, "w", encoding="utf-8", newline="") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say of which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def safetensors_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """A safetensors file; a tensor of another dtype than the engine's is refused."""
    header, parts, offset = {}, [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            known = ", ".join(map(str, _DTYPE_NAMES))
            raise DataError(f"tensor {name} is {tensor.dtype}; run directories hold {known}")
        parts.append(np.ascontiguousarray(tensor).tobytes())
        end = offset + len(parts[-1])
        header[name] = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)
