"""mnemo.records.pickles and utils.py: records are read, hostile files run nothing and allocate little."""

from __future__ import annotations

import argparse
import collections
import copyreg
import io
import os
import pathlib
import pickle
import shlex
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import utils
from synthetic_run import REPOSITORY

from mnemo.records import pickles


def load(content: bytes):
    return pickles.Unpickler(io.BytesIO(content)).load()


ARRAYS = {
    "row": np.arange(3.0),
    "large": np.arange(5000).reshape(50, 100),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "big_endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3)),
    "bool": np.array([True, False]),
    "words": np.array(["a", "bcd"]),
}
RECORD = {
    **ARRAYS, "scalar": np.float32(2), "args": argparse.Namespace(lr=0.1, freeze="True"), "none": None, "int": 10**30,
    "ordered": collections.OrderedDict(a=1), "default": collections.defaultdict(list, {"a": [1]}),
    "nested": [[], [1.5, (2, "x", b"y", True)]], "missing": float("nan"), "set": {1, "a", None},
    "frozen": frozenset([2.5]), "false": False, "no": set(), "negative": -(1 << 40), "text": "caf\u00e9 \u20ac",
}  # fmt: skip


# Genuine records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_data_comes_back(protocol):
    record = load(pickle.dumps(RECORD, protocol))
    assert list(record) == list(RECORD)
    for name, array in ARRAYS.items():
        assert np.array_equal(record[name], array), name
    assert (record["args"], record["int"], record["nested"]) == (RECORD["args"], 10**30, RECORD["nested"])
    assert (record["scalar"], record["scalar"].dtype) == (2, np.float32)
    for name in ("set", "frozen", "false", "no", "negative", "text"):
        assert record[name] == RECORD[name] and type(record[name]) is type(RECORD[name]), name
    assert record["default"]["new"] == []


OLD_ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n(I1\n(I2\ntp7\n"
    b"cnumpy\ndtype\np8\n(S'f4'\np9\nI0\nI1\ntp10\nRp11\n(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nb"
)
# As Python 2.7 wrote them: text and bytes are both its str, classes have its names.
PYTHON_2 = {
    "args, protocol 0": (
        b"ccopy_reg\n_reconstructor\np0\n(cargparse\nNamespace\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n"
        b"(dp5\nS'lr'\np6\nF0.10000000000000001\nsS'freeze'\np7\nS'True'\np8\nsb.",
        argparse.Namespace(lr=0.1, freeze="True"),
    ),
    "args, protocol 2": (
        b"\x80\x02cargparse\nNamespace\nq\x00)\x81q\x01}q\x02U\x02lrq\x03G?\xb9\x99\x99\x99\x99\x99\x9asb.",
        argparse.Namespace(lr=0.1),
    ),
    "array, protocol 0": (
        OLD_ARRAY + b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np14\ntp15\nb.", np.float32([1, -2])
    ),
    "array, protocol 2": (
        b"\x80\x02" + OLD_ARRAY + b"\x89T\x08\x00\x00\x00\x00\x00\x80?\x00\x00\x00\xc0tb.", np.float32([1, -2])
    ),
    "scalar": (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\xf8?'\ntR.", np.float64(1.5)
    ),
    "state": (
        b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01(]q\x02(U\x01aq\x03K\x01e]q\x04(U\x01bq\x05K\x02ee\x85"
        b"q\x06Rq\x07.", collections.OrderedDict(a=1, b=2)
    ),
    "set, long, unicode, booleans": (
        b"(lp0\nc__builtin__\nset\np1\n((lp2\nI1\naS'x'\np3\natp4\nRp5\naL123456789012345678901L\naVcaf\\u00e9\np6\n"
        b"aI01\naI00\nag3\na.", [{1, "x"}, 123456789012345678901, "caf\u00e9", True, False, "x"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PYTHON_2)
def test_pickles_of_python_2_come_back(name):
    content, expected = PYTHON_2[name]
    found = load(content)
    assert type(found) is type(expected) and np.array_equal(found, expected), found
    assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


def test_torch_records_in_every_container(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.arange(6.0).reshape(2, 3)
    record = {
        "weight": weight, "view": weight.T, "part": weight[1, 1:], "none": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "parameter": torch.nn.Parameter(weight), "state": torch.nn.Linear(3, 2).state_dict(),
        "args": argparse.Namespace(device=torch.device("cuda:0")), "row": np.arange(3.0), "bits": torch.ones(4).long(),
    }  # fmt: skip
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(record, 4))
    torch.save(record, tmp_path / "archive.pt")
    torch.save(record, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("plain.pkl", "archive.pt", "old.pt"):
        found = pickles.read_record(tmp_path / name)
        for key in ("weight", "view", "part", "none", "scalar", "parameter", "bits"):
            assert type(found[key]) is np.ndarray
            assert np.array_equal(found[key], record[key].detach().numpy()), (name, key)
        assert np.array_equal(found["state"]["bias"], record["state"]["bias"].numpy())
        assert found["args"].device == "cuda:0"
    with open(tmp_path / "plain.pkl", "rb") as file:
        tensors = utils.CPU_Unpickler(file).load()
    assert torch.equal(tensors["view"], record["view"])
    assert torch.equal(tensors["state"]["weight"], record["state"]["weight"])


def test_reading_needs_no_torch(tmp_path):
    array = pickle.dumps(np.arange(3.0), 3)[2:-1]
    content = b"\x80\x04" + g("torch", "from_numpy") + array + b"\x85R."
    (tmp_path / "a.pkl").write_bytes(content)
    code = "import sys; from mnemo.records import pickles\n"
    code += "print(pickles.read_record(sys.argv[1]).sum(), 'torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pkl")],
        capture_output=True, text=True, cwd=REPOSITORY / "scripts", timeout=60, check=False,
    )  # fmt: skip
    assert result.stdout == "3.0 False\n", result.stderr


def test_the_names_a_file_uses_are_known(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(RECORD["args"], 4))
    names: set = set()
    pickles.read_record(tmp_path / "a.pkl", names=names)
    assert names == {("argparse", "Namespace")}


# What is no plain data, and how to make it plain ----------------------------------------------------------------------


def refusal(path) -> str:
    with pytest.raises(ValueError) as caught:
        pickles.read_record(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message[len(f"{path}: ") :]


def run_advice(message: str, cwd) -> None:
    """The line that an error prints, as pasted into a shell."""
    line = message.splitlines()[-1].replace("python3", sys.executable, 1)
    done = subprocess.run(line, shell=True, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_class_is_named_with_the_line_that_saves_it_as_text(tmp_path):
    path = tmp_path / "a record's.pkl"
    path.write_bytes(pickle.dumps({"args": {"out": pathlib.PurePosixPath("/x y"), "K": 3}, "row": np.arange(3)}, 2))
    said = refusal(path)
    assert said.startswith("the name pathlib") and "PurePosixPath is not allowed in a record\nThis makes a copy" in said
    assert "It runs what is in the file: only if you trust it." in said
    run_advice(said, tmp_path)
    again = pickles.read_record(f"{path}.plain.pkl")
    assert again["args"] == {"out": "/x y", "K": 3} and again["row"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["plain.pkl", "archive.pt"])
def test_bfloat16_is_named_with_the_line_that_saves_it_as_float32(tmp_path, name, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(copyreg.dispatch_table, torch.Tensor, None)  # the advice sets it: undone at the end
    del copyreg.dispatch_table[torch.Tensor]
    record = {"weight": torch.arange(4).to(torch.bfloat16), "bits": torch.ones(3, dtype=torch.int64)}
    if name == "plain.pkl":
        (tmp_path / name).write_bytes(pickle.dumps(record, 4))
    else:
        torch.save(record, tmp_path / name)
    said = refusal(tmp_path / name)
    assert said.startswith("holds tensors of BFloat16, which NumPy does not know\n")
    exec(shlex.split(said.splitlines()[-1])[-1], {})  # here, since another Python takes seconds to load torch
    again = pickles.read_record(tmp_path / f"{name}.plain.pkl")
    assert again["weight"].dtype == np.float32 and again["weight"].tolist() == [0, 1, 2, 3]
    assert again["bits"].dtype == np.int64


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x80\x06N.", "is a pickle of protocol 6; protocols up to 5 are read"),
     (b"(i__main__\nOld\n.", "the instruction INST (protocol 0) makes an object"),
     (b"\x80\x04\x82\x01.", "the instruction EXT1 (protocol 2) makes an object, or takes one from elsewhere")],
)  # fmt: skip
def test_protocols_and_instructions_are_named(tmp_path, content, said):
    (tmp_path / "a.pkl").write_bytes(content)
    found = refusal(tmp_path / "a.pkl")
    code = shlex.split(found.splitlines()[-1])[-1]
    assert found.startswith(said) and f"pickle.load(open({str(tmp_path / 'a.pkl')!r}" in code


@pytest.mark.parametrize(
    "name", [b"os\nsystem", b"subprocess\nPopen", b"a; rm -rf ~\nB", b"x\nB'$(id)", b"builtins\nMemoryError"]
)
def test_what_would_run_something_gets_no_advice(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(b"c" + name + b"\n.")
    assert "python3" not in refusal(tmp_path / "a.pkl")


# Hostile files --------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [Call(os.system, "touch hostile"), Call(eval, "1"), Call(getattr, os, "system"), Call(__import__, "os"),
     Call(bytearray, 10), Call(np.load, "x"), Call(np.ndarray, (4,)), Call(list, (1,)), Call(print)],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_called(call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        content = pickle.dumps([call], protocol)
    except (TypeError, pickle.PicklingError):  # a module among the arguments
        content = b"\x80\x04c" + b"builtins\ngetattr\ncos\nsystem\n\x85R."
    with pytest.raises(ValueError):
        load(content)
    assert list(tmp_path.iterdir()) == []


def g(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def u(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


EMPTY_ARRAY = g("numpy.core.multiarray", "_reconstruct") + g("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
FLOAT = g("numpy", "dtype") + u("f8") + b"\x89\x88\x87R"
BAD = {
    "dotted name": b"\x8c\x02os\x8c\x0csystem.upper\x93.",
    "attribute of an allowed module": g("numpy", "load") + b".",
    "allowed name of another module": g("os", "dtype") + b".",
    "call of a string": u("system") + b")R.",
    "call of an array": EMPTY_ARRAY + b")R.",
    "state of a name": g("argparse", "Namespace") + b"}" + u("__init__") + u("x") + b"sb.",
    "state in two parts": g("argparse", "Namespace") + b")\x81N}" + u("a") + b"K\x01s\x86b.",
    "state of a list": b"]}b.",
    "item for a namespace": g("argparse", "Namespace") + b")\x81K\x01a.",
    "entries of a list": b"]" + u("a") + b"K\x01s.",
    "array of objects": EMPTY_ARRAY + b"(K\x01K\x01\x85" + g("numpy", "dtype") + u("O8") + b"\x89\x88\x87R\x89]tb.",
    "array of records": EMPTY_ARRAY + b"(K\x01K\x01\x85" + g("numpy", "dtype") + u("f8,i4") + b"\x89\x88\x87R\x89]tb.",
    "huge shape": EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT + b"\x89C\x08" + b"0" * 8 + b"tb.",
    "negative shape": EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89C\x08" + b"0" * 8 + b"tb.",
    "array filled twice": EMPTY_ARRAY + (b"(K\x01K\x01\x85" + FLOAT + b"\x89C\x08" + b"0" * 8 + b"tb") * 2 + b".",
    "ndarray as a function": g("numpy", "ndarray") + b"J\x00\x00\x00\x7f\x85\x85R.",
    "persistent id": u("x") + b"Q.",
    "tuple as a key": b"}K\x01K\x02\x86K\x03s.",
    "set of arrays": b"\x8f(" + EMPTY_ARRAY + b"\x90.",
    "frozen set of lists": b"(]\x91.",
    "items of a set for a list": b"](K\x01\x90.",
    "set made of a dict": g("builtins", "set") + b"}\x85R.",
    "text of an object": g("builtins", "str") + g("builtins", "object") + b"\x85R.",
    "object of another class": g("copyreg", "_reconstructor")
    + g("numpy", "ndarray") + g("builtins", "object") + b"N\x87R.",
    "namespace with a state": g("copyreg", "_reconstructor")
    + g("argparse", "Namespace") + g("builtins", "object") + b"}\x87R.",
    "dict of three": g("collections", "OrderedDict") + b"](K\x01K\x02K\x03e\x85\x85R.",
    "object of the old kind": b"(ios\nsystem\n.",
    "integer of letters": b"Iabc\n.",
    "text without an end": b"S'abc\n.",
    "text of a negative length": b"T\xff\xff\xff\xffabc.",
    "extension registry": b"\x82\x01.",
    "out of band buffer": b"\x97.",
    "unknown memo entry": b"h\x05.",
    "empty stack": b"R.",
    "nothing": b"",
    "text": b"hello",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_pickles_are_refused(name):
    with pytest.raises(ValueError):
        load(b"\x80\x04" + BAD[name] if name not in ("nothing", "text") else BAD[name])


def storage_call(size: bytes, stride: bytes, elements: int = 4) -> bytes:
    """A pickle with one tensor over a torch storage of float32."""
    stream = b"".join(pickle.dumps(part, 2) for part in (pickles.TORCH_MAGIC, 1001, {"little_endian": True}))
    stream += b"\x80\x02(" + u("storage") + g("torch", "FloatStorage") + u("0") + u("cpu") + b"K\x04NtQ."
    stream += pickle.dumps(["0"], 2) + struct.pack("<q", elements) + np.arange(4, dtype=np.float32).tobytes()
    storage = g("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(stream)) + stream + b"\x85R"
    return (
        b"\x80\x04" + g("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"K\x00" + size + stride + b"\x89NtR."
    )


def test_a_tensor_stays_inside_its_storage():
    assert load(storage_call(b"K\x02K\x02\x86", b"K\x02K\x01\x86")).tolist() == [[0, 1], [2, 3]]
    for size, stride in (
        (b"K\x05\x85", b"K\x01\x85"),
        (b"K\x02\x85", b"K\x04\x85"),
        (b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"),
    ):
        with pytest.raises(ValueError, match="storage does not hold"):
            load(storage_call(size, stride))
    with pytest.raises(ValueError, match="a storage of 9 elements"):
        load(storage_call(b"K\x04\x85", b"K\x01\x85", elements=9))


def peak(content: bytes) -> int:
    """Bytes allocated at once while a pickle is read or refused."""
    file = io.BytesIO(content)
    tracemalloc.start()
    try:
        pickles.Unpickler(file).load()
    except ValueError:
        pass
    finally:
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return result


LONG = b"\x00\x00\x01\x00" + b"a" * 65536
HUGE = struct.pack("<Q", 1 << 40)
encode = g("_codecs", "encode")
BOMBS = {
    "bytes longer than the file": b"\x8e" + HUGE + b"x.",
    "text longer than the file": b"\x8d" + HUGE + b"x.",
    "buffer longer than the file": b"\x96" + HUGE + b"x.",
    "frame longer than the file": b"\x95" + HUGE + b"N.",
    "integer longer than the file": b"\x8b\xff\xff\xff\x7f1.",
    "old text longer than the file": b"T\xff\xff\xff\x7fabc.",
    "memo far away": b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff.",
    "one text encoded again and again": b"X" + LONG + b"q\x00" + (encode + b"h\x00\x85R") * 3000 + b".",
    "one array filled again and again": b"B" + LONG + b"q\x000("
    + (EMPTY_ARRAY + b"(K\x01M\x00\x20\x85" + FLOAT.replace(u("f8"), u(">f8")) + b"\x89h\x00tb") * 1000 + b"t.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_allocate_no_more_than_the_file(name):
    content = b"\x80\x04" + BOMBS[name]
    assert peak(content) <= 4 * len(content) + 200_000


def test_deep_nesting_and_cut_files_are_no_crash():
    deep = 200_000
    assert isinstance(load(b"\x80\x04" + b"]" * deep + b"a" * (deep - 1) + b"."), list)
    content = pickle.dumps(RECORD, 4)
    for end in range(0, len(content) - 1, 7):
        with pytest.raises(ValueError):
            load(content[:end])


def test_flipped_bytes_are_refused_or_read_but_never_crash():
    content = bytearray(pickle.dumps(RECORD, 4))
    generator = np.random.default_rng(0)
    for position in generator.integers(0, len(content), 400):
        changed = bytearray(content)
        changed[position] ^= 1 << int(generator.integers(8))
        try:
            load(bytes(changed))
        except ValueError:
            pass


def archive(path, pickled: bytes, extra=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in extra:
            file.writestr(name, content)


def test_archives_must_be_plain(tmp_path):
    path = tmp_path / "a.pt"
    archive(path, pickle.dumps({"a": np.arange(3)}, 2))
    assert pickles.read_record(path)["a"].tolist() == [0, 1, 2]
    archive(path, b"0" * 100_000, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        pickles.read_record(path)
    archive(path, b"N.", [("other/data.pkl", b"N.")])
    with pytest.raises(ValueError, match="one NAME/data.pkl"):
        pickles.read_record(path)
    huge = b"\x80\x02(" + u("storage") + g("torch", "FloatStorage") + u("0") + u("cpu") + b"J\xff\xff\xff\x7ftQ."
    archive(path, huge, [("archive/data/0", b"1234")])
    with pytest.raises(ValueError, match="another size"):
        pickles.read_record(path)
    archive(path, b"N.", [("archive/byteorder", b"big")])
    with pytest.raises(ValueError, match="little-endian"):
        pickles.read_record(path)
    content = path.read_bytes()
    for end in range(4, len(content), 9):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="a.pt: "):
            pickles.read_record(path)


def test_sequences_file_under_either_name(tmp_path):
    record = tmp_path / "run.pkl"
    assert pickles.sequences_file(record) is None
    (tmp_path / "run_sequences.pkl").touch()
    assert pickles.sequences_file(record).name == "run_sequences.pkl"
    (tmp_path / "run_all_sequences.pkl").touch()
    assert pickles.sequences_file(record).name == "run_all_sequences.pkl"


def test_scripts_need_numpy_alone():
    code = "import sys; sys.modules.update(torch=None, matplotlib=None, pandas=None)\n"
    code += "import mnemo_io, compare, export_check, import_record, plot_run, utils, io, pickle, numpy\n"
    code += "content = io.BytesIO(pickle.dumps(numpy.arange(3.0)))\nprint(utils.CPU_Unpickler(content).load().sum())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY / "scripts",
        timeout=60,
        check=False,
    )
    assert result.stdout == "3.0\n", result.stderr
