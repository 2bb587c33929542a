"""Read notebook records (pickles and torch archives) without running anything that is in them. Needs NumPy alone.

    record = pickles.read_record("run.pkl")           # tensors come as NumPy arrays; torch need not be installed

A pickle is a program. This reader knows the few instructions that data needs, of all protocols (Python 2.7 wrote 0 to
2), and an allow-list of names: NumPy arrays and scalars, torch tensors, sets, OrderedDict, defaultdict,
argparse.Namespace. A name is never looked up in a module: it is a token, and what a token does is written here.
Anything else is refused with DataError `FILE: what is wrong`, other data with the line that saves it as plain.

Memory: no length, shape, index or reference in the file makes a buffer that the file has no bytes for. Beside the file
itself, strings and buffers take at most twice its size; Python objects grow with the number of instructions.
"""

from __future__ import annotations

import argparse
import collections
import io
import math
import os
import pickle
import pickletools
import re
import shlex
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemo.errors import DataError, require
from mnemo.files import PathLike

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of torch's old format
STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
MAX_DIMENSIONS = 32
PROTOCOL = 5
AS_FLOAT32 = (
    "import copyreg, torch; copyreg.pickle(torch.Tensor, lambda t: "
    "(t.float() if t.is_floating_point() and t.element_size() < 4 else t).__reduce_ex__(4)); "
)
OPCODES = (
    b"\x80", b"\x95", b".", b"(", b"0", b"1", b"2",  # PROTO FRAME STOP MARK POP POP_MARK DUP
    b"N", b"\x88", b"\x89", b"J", b"K", b"M", b"\x8a", b"\x8b", b"G",  # None, booleans, integers, float
    b"X", b"\x8c", b"\x8d", b"B", b"C", b"\x8e", b"\x96",  # strings, bytes, bytearray
    b"]", b"a", b"e", b"l", b"}", b"s", b"u", b"d", b")", b"t", b"\x85", b"\x86", b"\x87",  # lists, dicts, tuples
    b"h", b"j", b"q", b"r", b"\x94", b"c", b"\x93", b"R", b"b", b"\x81", b"Q",  # memo, names, what names do
    b"\x8f", b"\x90", b"\x91", b"I", b"L", b"F", b"S", b"T", b"U", b"V", b"g", b"p",  # sets; protocols 0 to 2
)  # fmt: skip
SCALARS = (str, int, float, bool, bytes, type(None))
NO_DATA = {"builtins", "os", "posix", "nt", "subprocess", "sys", "importlib", "runpy", "shutil", "ctypes", "code"}


class Global(NamedTuple):
    """A name in a pickle: only a token."""

    module: str
    name: str


class DType:
    """numpy.dtype of plain numbers while its state is read: a pickle gives the byte order afterwards."""

    __slots__ = ("dtype",)

    def __init__(self, description: Any, *_: Any) -> None:
        require(isinstance(description, str) and len(description) <= 6, "a dtype that is no plain number")
        self.dtype = np.dtype(description)
        require(self.dtype.kind in "biufSU" and self.dtype.names is None, f"arrays of {self.dtype}")

    def set_state(self, state: Any) -> None:
        require(isinstance(state, tuple) and len(state) >= 3 and state[1] in ("<", ">", "|", "="), "a broken dtype")
        require(state[2] is None and (len(state) < 5 or state[4] is None), "arrays of records")
        if self.dtype.kind in "SU" and len(state) > 5:
            require(isinstance(state[5], int) and 0 < state[5] < 1 << 16, "a broken dtype")
            length = state[5] // (4 if self.dtype.kind == "U" else 1)
            self.dtype = np.dtype(f"{self.dtype.kind}{length}")
        self.dtype = self.dtype.newbyteorder(state[1])


def _bytes_of(value: Any, message: str) -> bytes:
    """A string of bytes, which Python 2 had as text."""
    require(type(value) in (bytes, str), message)
    return value if type(value) is bytes else value.encode("latin1")


def _save_again(path: str, archive: bool, before: str = "") -> str:
    """The command that makes a plain copy of a record, once `before` has said how to pickle what is not plain."""
    opening = f"torch.load({path!r}, 'cpu', weights_only=False)" if archive else f"pickle.load(open({path!r}, 'rb'))"
    imports = "import pickle, torch" if archive else "import pickle"
    code = f"{imports}; {before}pickle.dump({opening}, open({path + '.plain.pkl'!r}, 'wb'), 4)"
    return (
        "\nThis makes a copy that can be read, where the file's classes are installed. It runs what is in the file: "
        f"only if you trust it.\n    python3 -c {shlex.quote(code)}"
    )


def _is_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in value)


class Unpickler(pickle._Unpickler):  # the form in Python: its table of instructions can be cut, that of the C form not
    """`pickle.Unpickler` for data alone.

    Parameters
    ----------
    file
        An open binary file; all of it is read.
    tensor
        What to make of a NumPy array that was a torch tensor.
    storage
        For torch archives: a function from (dtype, key, number of elements) to a 1-D array.
    budget
        Bytes that may be allocated beside the strings and buffers in the file; None is twice the file.
    path, archive
        The file, and whether torch loads it: for the advice in errors. By default what `file` is called.
    """

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES}

    def __init__(
        self,
        file: Any,
        tensor: Callable[[np.ndarray], Any] = lambda array: array,
        storage: Callable[[np.dtype, str, int], np.ndarray] | None = None,
        budget: int | None = None,
        path: str | None = None,
        archive: bool = False,
    ) -> None:
        content = file.getbuffer() if isinstance(file, io.BytesIO) else None
        self.stream = file if content is not None else io.BytesIO(file.read())  # short reads allocate nothing
        self.size = len(content) if content is not None else len(self.stream.getbuffer())
        self.budget = 2 * self.size if budget is None else budget
        self.tensor, self.storage = tensor, storage
        self.globals: set[Global] = set()  # names that the pickle uses
        name = getattr(file, "name", None) if path is None else path
        self.path, self.archive = name if isinstance(name, str) else "record.pkl", archive
        super().__init__(self.stream, encoding="latin1")  # of the strings of Python 2, which hold bytes too

    def load(self) -> Any:
        """The object; DataError for anything that is no allowed, whole pickle."""
        try:
            return super().load()
        except ValueError:
            raise
        except (EOFError, IndexError):
            raise DataError("the pickle is cut short") from None
        except KeyError as error:
            self._refuse_instruction(error.args[0])
        except (pickle.UnpicklingError, AttributeError, TypeError, OverflowError, struct.error, MemoryError) as error:
            raise DataError(f"broken pickle: {error}") from None

    def charge(self, size: int) -> None:
        self.budget -= size
        require(self.budget >= 0, "asks for more memory than its size allows")

    def find_class(self, module: str, name: str) -> Global:
        token = Global(RENAMED.get(module, module.replace("numpy._core", "numpy.core")), name)
        if token not in REBUILD and token not in WORDS:
            self._refuse_name(module, name)
        self.globals.add(Global(module, name))
        return token

    def _refuse_name(self, module: str, name: str) -> None:
        """Says how to get rid of a class in a record: torch tensors of another type as float32, all else as text."""
        what = f"the name {module}.{name} is not allowed in a record"
        is_class = re.fullmatch(r"[\w.]+", f"{module}.{name}") and name.rsplit(".", 1)[-1].lstrip("_")[:1].isupper()
        if not is_class or module.split(".")[0] in NO_DATA:  # rather a call than data
            raise DataError(what)
        if module == "torch" and name.endswith("Storage"):
            what = f"holds tensors of {name[: -len('Storage')]}, which NumPy does not know"
            before = AS_FLOAT32
        else:
            before = f"import copyreg, {module}; copyreg.pickle({module}.{name}, lambda v: (str, (str(v),))); "
        raise DataError(what + _save_again(self.path, self.archive, before))

    def _refuse_instruction(self, code: Any) -> None:
        known = pickletools.code2op.get(chr(code)) if type(code) is int and 0 <= code < 256 else None
        if known is None or code in self.dispatch:
            raise DataError(f"broken pickle: there is no instruction or memo entry {code!r}")
        raise DataError(
            f"the instruction {known.name} (protocol {known.proto}) makes an object, or takes one from elsewhere; a "
            "record is plain data" + _save_again(self.path, self.archive)
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        fits = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Global)
        require(fits and self.storage is not None, "a reference to something outside the record")
        require(pid[1].name in STORAGES, f"tensors of {pid[1].name}")
        require(isinstance(pid[2], str) and type(pid[4]) is int and pid[4] >= 0, "a broken reference to a storage")
        return self.storage(np.dtype(STORAGES[pid[1].name]), pid[2], pid[4])

    def load_proto(self) -> None:
        number = self.read(1)[0]
        if number > PROTOCOL:
            what = f"is a pickle of protocol {number}; protocols up to {PROTOCOL} are read"
            raise DataError(what + _save_again(self.path, self.archive))

    dispatch[b"\x80"[0]] = load_proto

    # Instructions that could reach into objects, each cut down to the types that data has.

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        require(isinstance(function, Global) and function in REBUILD, "a call of something that is no allowed name")
        require(isinstance(arguments, tuple), "a call without arguments")
        self.stack.append(REBUILD[function](self, *arguments))

    dispatch[b"R"[0]] = load_reduce

    def load_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        require(cls in (Global("argparse", "Namespace"), Global("collections", "OrderedDict")), "a strange object")
        require(arguments == (), "an object made with arguments")
        self.stack.append(REBUILD[cls](self))

    dispatch[b"\x81"[0]] = load_newobj

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, DType):
            target.set_state(state)
        elif type(target) is np.ndarray:
            self._set_array(target, state)
        elif type(target) is argparse.Namespace:
            require(type(state) is dict and all(type(key) is str for key in state), "a strange Namespace")
            vars(target).update(state)
        else:  # torch keeps versions of modules (_metadata) in the attributes of a state dict: not needed
            require(type(target) is collections.OrderedDict and type(state) is dict, "a state for something strange")

    dispatch[b"b"[0]] = load_build

    def _set_array(self, array: np.ndarray, state: Any) -> None:
        require(isinstance(state, tuple) and len(state) == 5, "a broken array")
        _, shape, dtype, fortran, raw = state
        require(array.shape == (0,) and array.dtype == np.int8, "an array that is given its contents twice")
        require(_is_sizes(shape) and isinstance(dtype, DType) and isinstance(fortran, (bool, int)), "a broken array")
        raw = _bytes_of(raw, "an array of objects")
        require(math.prod(shape) * dtype.dtype.itemsize == len(raw), f"{len(raw)} bytes for an array {shape}")
        self.charge(len(raw))
        array.__setstate__((1, shape, dtype.dtype, bool(fortran), raw))

    def load_append(self) -> None:
        value = self.stack.pop()
        require(type(self.stack[-1]) is list, "an item for something that is no list")
        self.stack[-1].append(value)

    dispatch[b"a"[0]] = load_append

    def load_appends(self) -> None:
        items = self.pop_mark()
        require(type(self.stack[-1]) is list, "items for something that is no list")
        self.stack[-1].extend(items)

    dispatch[b"e"[0]] = load_appends

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        require(isinstance(target, dict) and len(items) % 2 == 0, "entries for something that is no dict")
        require(all(type(key) in (str, int) for key in items[::2]), "a dict whose keys are no strings or integers")
        target.update(zip(items[::2], items[1::2]))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    dispatch[b"s"[0]] = load_setitem

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    dispatch[b"u"[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set_items(items)

    dispatch[b"d"[0]] = load_dict

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        require(size <= self.size, "a buffer longer than the file")
        self.stack.append(bytes(self.read(size)))

    dispatch[b"\x96"[0]] = load_bytearray8

    def load_additems(self) -> None:
        items = self.pop_mark()
        require(type(self.stack[-1]) is set, "items for something that is no set")
        self.stack[-1].update(_scalars(items))

    dispatch[b"\x90"[0]] = load_additems

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(_scalars(items)))

    dispatch[b"\x91"[0]] = load_frozenset


# What the names do. Each function gets the unpickler first. ----------------------------------------------------------


def _array(loader: Unpickler, *_: Any) -> np.ndarray:
    return np.ndarray((0,), np.int8)  # filled by the state that follows


def _array_from_buffer(loader: Unpickler, raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    array = _array(loader)
    loader._set_array(array, (1, shape, dtype, order == "F", raw))
    return array


def _scalar(loader: Unpickler, dtype: Any, raw: Any = b"") -> Any:
    raw = _bytes_of(raw, "a broken scalar")
    require(isinstance(dtype, DType) and len(raw) == dtype.dtype.itemsize, "a broken scalar")
    return np.frombuffer(raw, dtype.dtype)[0]


def _encode(loader: Unpickler, text: Any, encoding: Any = "latin1") -> bytes:
    require(type(text) is str and encoding == "latin1", "a strange encoding")
    loader.charge(len(text))
    return text.encode("latin1")


def _bytes(loader: Unpickler, *arguments: Any) -> bytes:
    require(not arguments, "bytes made from something")
    return b""


def _ordered(loader: Unpickler, pairs: Any = ()) -> collections.OrderedDict:
    """With the entries that Python 2 gave at once."""
    pairs = pairs if type(pairs) is list else [pairs] if pairs != () else []
    fits = all(type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs)
    require(fits, "an OrderedDict made from something")
    return collections.OrderedDict(pairs)


def _scalars(items: Any) -> list:
    require(type(items) is list and all(type(item) in SCALARS for item in items), "a set of something strange")
    return items


def _set(loader: Unpickler, items: Any = None) -> set:
    return set(_scalars([] if items is None else items))


def _frozenset(loader: Unpickler, items: Any = None) -> frozenset:
    return frozenset(_set(loader, items))


def _text(loader: Unpickler, text: Any) -> str:
    require(type(text) is str, "text made from something")
    return text


def _reconstructor(loader: Unpickler, cls: Any, base: Any, state: Any) -> argparse.Namespace:
    """How protocols 0 and 1 make an object that has nothing yet."""
    fits = cls == Global("argparse", "Namespace") and base == Global("builtins", "object") and state is None
    require(fits, "a strange object")
    return argparse.Namespace()


def _default(loader: Unpickler, factory: Any = None) -> collections.defaultdict:
    known = {Global("builtins", kind.__name__): kind for kind in (list, dict, int, float)}
    require(factory is None or factory in known, "a defaultdict of something strange")
    return collections.defaultdict(known.get(factory))


def _namespace(loader: Unpickler, *arguments: Any) -> argparse.Namespace:
    require(not arguments, "a Namespace made from something")
    return argparse.Namespace()


def _device(loader: Unpickler, *words: Any) -> str:
    require(all(isinstance(word, (str, int)) for word in words), "a strange device")
    return ":".join(map(str, words))


def _from_numpy(loader: Unpickler, array: Any) -> Any:
    require(type(array) is np.ndarray, "a tensor made of something that is no array")
    return loader.tensor(array)


def _tensor(loader: Unpickler, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    fits = type(storage) is np.ndarray and storage.ndim == 1 and type(offset) is int and offset >= 0
    require(fits and _is_sizes(size) and _is_sizes(stride) and len(size) == len(stride), "a broken tensor")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else offset - 1
    require(last < len(storage) and count <= len(storage), f"a tensor {size} that its storage does not hold")
    steps = tuple(step * storage.itemsize for step in stride)
    return loader.tensor(np.lib.stride_tricks.as_strided(storage[offset:], size, steps if count else None))


def _parameter(loader: Unpickler, data: Any, *_: Any) -> Any:
    return data


def _storage_from_bytes(loader: Unpickler, content: Any) -> Any:
    require(type(content) is bytes, "a storage made of something that is no bytes")
    loader.charge(len(content))
    return _read_torch_stream(io.BytesIO(content), loader)


REBUILD: dict[Global, Callable] = {
    Global("numpy.core.multiarray", "_reconstruct"): _array,
    Global("numpy.core.multiarray", "scalar"): _scalar,
    Global("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    Global("numpy", "dtype"): lambda loader, *arguments: DType(*arguments),
    Global("_codecs", "encode"): _encode,
    Global("builtins", "bytes"): _bytes,
    Global("builtins", "set"): _set,
    Global("builtins", "frozenset"): _frozenset,
    Global("builtins", "str"): _text,
    Global("copyreg", "_reconstructor"): _reconstructor,
    Global("collections", "OrderedDict"): _ordered,
    Global("collections", "defaultdict"): _default,
    Global("argparse", "Namespace"): _namespace,
    Global("torch", "device"): _device,
    Global("torch", "from_numpy"): _from_numpy,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch.storage", "_load_from_bytes"): _storage_from_bytes,
}
WORDS = {
    Global("numpy", "ndarray"), *(Global("torch", name) for name in STORAGES),
    *(Global("builtins", kind) for kind in ("list", "dict", "int", "float", "object")),
}  # fmt: skip
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # since Python 2


# Files ----------------------------------------------------------------------------------------------------------------


def _read_torch_stream(stream: io.BytesIO, parent: Unpickler) -> Any:
    """torch's old format: magic number, version, system, the object, keys of storages, then each storage's elements."""

    def load(storage: Callable | None = None) -> Any:
        loader = Unpickler(stream, parent.tensor, storage, parent.budget, parent.path, parent.archive)
        value = loader.load()
        parent.budget = loader.budget
        parent.globals |= loader.globals
        return value

    storages: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if key not in storages:
            require(count * dtype.itemsize <= len(stream.getbuffer()), "a storage larger than the file")
            parent.charge(count * dtype.itemsize)
            storages[key] = np.zeros(count, dtype)
        return storages[key]

    require(load() == TORCH_MAGIC and load() == 1001, "not torch's old format")
    system = load()
    require(isinstance(system, dict) and system.get("little_endian") is True, "not a little-endian record")
    result, keys = load(storage), load()
    require(
        isinstance(keys, list) and all(key in storages for key in keys if isinstance(key, str)), "strange storages"
    )
    for key in keys:
        target = storages[key]
        (count,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
        require(count == len(target), f"a storage of {count} elements where {len(target)} are due")
        require(stream.readinto(target.view(np.uint8).data if count else bytearray()) == target.nbytes, "cut short")
    return result


def _read_zip(file: Any, size: int, tensor: Callable, names: set[Global]) -> Any:
    """torch's archive: NAME/data.pkl and NAME/data/KEY, nothing compressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            for entry in entries.values():
                plain = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
                require(plain and not entry.flag_bits & 1, f"{entry.filename[:80]!r} is compressed or encrypted")
            require(sum(entry.file_size for entry in archive.infolist()) <= size, "entries larger than the archive")
            pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
            require(len(pickles) == 1, "no torch archive: it must hold one NAME/data.pkl")
            root = pickles[0][: -len("data.pkl")]
            if root + "byteorder" in entries:
                require(archive.read(root + "byteorder") == b"little", "not a little-endian record")
            storages: dict[str, np.ndarray] = {}

            def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
                entry = entries.get(f"{root}data/{key}")
                require(entry is not None, f"there is no storage {key[:80]!r}")
                require(count * dtype.itemsize == entry.file_size, f"storage {key[:80]!r} has another size")
                if key not in storages:
                    content = bytearray(entry.file_size)
                    with archive.open(entry) as member:
                        require(io.BufferedReader(member).readinto(content) == len(content), "cut short")
                    storages[key] = np.frombuffer(content, np.uint8)
                return storages[key].view(dtype)

            loader = Unpickler(io.BytesIO(archive.read(pickles[0])), tensor, storage, 2 * size, file.name, archive=True)
            result = loader.load()
            names |= loader.globals
            return result
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error, OverflowError) as error:
        raise DataError(f"broken archive: {error}") from None


def read_record(
    path: PathLike, tensor: Callable[[np.ndarray], Any] = lambda array: array, names: set[Global] | None = None
) -> Any:
    """The object in a record: a pickle, a torch archive or torch's old format.

    Parameters
    ----------
    tensor
        What to make of each torch tensor's NumPy array; as it is by default.
    names
        Gets every name that the file uses.
    """
    names = set() if names is None else names
    with open(path, "rb") as file:
        start, size = file.read(4), os.fstat(file.fileno()).st_size
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                return _read_zip(file, size, tensor, names)
            loader = Unpickler(file, tensor)
            result = loader.load()
            if type(result) is int and result == TORCH_MAGIC:
                loader.stream.seek(0)
                loader.archive = True
                result = _read_torch_stream(loader.stream, loader)
            names |= loader.globals
            return result
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None


def sequences_file(path: PathLike) -> Path | None:
    """The sequences beside a record, under either of the two names; None where there is none."""
    path = Path(path)
    names = (f"{path.stem}_all_sequences.pkl", f"{path.stem}_sequences.pkl")
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
