#!/usr/bin/env python3
"""Read the run directories that mnemo writes. Needs NumPy alone; this file can be copied beside a notebook.

    import mnemo_io
    run = mnemo_io.read_run("cache/freeze_attention/freeze_attention")
    run["metrics"]["train_loss"]                    # (N,) one value a log line
    run["sets"]["train"]["accuracy"]                # (T, S) evaluation x rank
    run["by_position"]["phase_0"]["accuracy"]       # (T, E, P) evaluation x rank bin x position, where it was asked for
    mnemo_io.to_frame(run, "phase_0")               # long pandas table

A run may be read while it is written: a torn last line is left out, and the number of evaluations comes from step.npy.
Corrupt files raise ValueError with a message `FILE: what is wrong`; missing ones raise OSError.
Letters: N log lines, T evaluations, S evaluated ranks, E rank bins, P predicted positions, K sequences, L bits a
sequence.
"""

from __future__ import annotations

import argparse
import ast
import codecs
import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

PathLike = Union[str, "os.PathLike[str]"]

EXIT_USAGE, EXIT_DATA, EXIT_IO, EXIT_STOPPED, EXIT_CONFIG, EXIT_BROKEN_PIPE = 64, 65, 74, 75, 78, 141
METRIC_COLUMNS = {
    "step": np.int64, "phase": np.int64, "draws": np.int64,
    "train_loss": np.float64, "train_accuracy": np.float64, "lr": np.float64,
}  # fmt: skip
SET_COLUMNS = {
    "step": np.int64, "moment": np.uint8, "phase": np.int64, "rank": np.int64, "presentations": np.int64,
    "last_seen": np.int64, "loss": np.float32, "accuracy": np.float32,
}  # fmt: skip
ROW_COLUMNS = ("step", "moment", "phase")  # one number an evaluation
ATTENTION_AXES = {  # of an evaluation's array, what each dimension counts: title, distance, first
    "vertical_bars": (("head", 1, 0), ("position", 5, 0), ("later_position", 5, 1)),
    "decorrelation": (("position", 5, 0), ("head", 1, 0), ("other_head", 1, 0)),
    "attn_reps": (("sequence", 1, 0), ("head", 1, 0), ("query", 1, 0), ("key", 1, 0)),
}  # fmt: skip
SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
MAP_FROM_BYTES = 1 << 20  # smaller files are read at once: each memory map holds a file descriptor
MAX_HEADER_BYTES = 1 << 22  # of a safetensors file: 40,000 tensors
MAX_NPY_HEADER_BYTES = 1 << 16
MAX_DIMENSIONS = 32


# Text -----------------------------------------------------------------------------------------------------------------


def read_text(path: PathLike) -> str:
    """Contents of a UTF-8 file; ValueError when it is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no valid JSON: {error}") from None


def read_json(path: PathLike, kind: type = dict) -> Any:
    """The JSON value in a file, which must be of type `kind` (dict or list)."""
    value = _parse_json(read_text(path), str(path))
    _require(isinstance(value, kind), f"{path}: must hold a JSON {'object' if kind is dict else 'list'}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_int(value: Any, what: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{where}: {what} must be an integer >= 0, got {value!r}")
    return value


# run.json -------------------------------------------------------------------------------------------------------------

_FACTS = {"model": dict, "chance": dict, "seeds": dict}
_MODEL_FACTS = {"text": str, "first_position": int, "task": str}


def read_run_json(run: PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and facts of a run directory.

    Returns
    -------
    tuple
        The settings as config.yaml has them, nested; events also with `step`, or `first`, `last`, `count` where they
        repeat, `parameters` (the names that they act on) and `snapshot` (the name that they give, of `step`).
        The facts: `model` {kind, text, num_parameters, groups, task "bits" or "sequences", first_position, ...},
        `chance` {loss, accuracy}, `seeds` {data, model} and the number of `phases`.
    """
    path = Path(run) / "run.json"
    if not path.exists():
        config, program = path.with_name("config.yaml").resolve(), os.environ.get("MNEMO_PROGRAM", "mnemo")
        words = (shlex.quote(str(word)) for word in (program, config, path.resolve()))
        command = "{} config {} --json > {}".format(*words)
        raise ValueError(
            f"{run}: has no run.json: an older version wrote it. If the run was imported, import its record again; "
            f"else complete it with\n  {command}"
        )
    settings = read_json(path)
    facts = settings.pop("facts", None)
    for block in ("data", "model", "train"):
        _require(isinstance(settings.get(block), dict), f"{path}: must hold an object {block}")
    for key in ("num_sequences", "length"):
        _require(_require_int(settings["data"].get(key), key, str(path)) > 0, f"{path}: {key} must be positive")
    _require(isinstance(settings.get("events"), list), f"{path}: must hold a list of events")
    _require(isinstance(facts, dict), f"{path}: must hold an object facts")
    for entry, kinds in ((facts, _FACTS), (facts.get("model"), _MODEL_FACTS)):
        for key, kind in kinds.items():
            _require(isinstance(entry.get(key), kind), f"{path}: facts: {key} is missing or of another type")
    return settings, facts


# .npy and .safetensors ------------------------------------------------------------------------------------------------


def _npy_header(file: Any, path: PathLike) -> tuple[np.dtype, tuple[int, ...], int]:
    """dtype, shape and the offset of the elements of an open .npy file."""
    magic = file.read(8)
    if len(magic) != 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError(f"{path}: not a .npy file")
    length_bytes = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(length_bytes), "little")
    if length > MAX_NPY_HEADER_BYTES:
        raise ValueError(f"{path}: header of {length} bytes")
    header = file.read(length)
    try:
        fields = ast.literal_eval(header.decode("latin-1" if magic[6] < 3 else "utf-8").strip())
        shape, dtype = fields["shape"], np.dtype(fields["descr"])
        valid = set(fields) == {"descr", "fortran_order", "shape"} and fields["fortran_order"] is False
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError(f"{path}: broken .npy header") from None
    if len(header) != length or not valid or dtype.hasobject or not isinstance(shape, tuple):
        raise ValueError(f"{path}: broken .npy header, Fortran order or objects")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise ValueError(f"{path}: impossible shape {shape}")
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
        raise ValueError(f"{path}: must be {np.dtype(dtype or found)} with {ndim} dimension(s), is {found} {shape}")
    count = math.prod(shape)
    if count * found.itemsize > size - offset:
        raise ValueError(f"{path}: shorter than its header says: {found} {shape} in {size} bytes")
    try:
        if count * found.itemsize >= MAP_FROM_BYTES:
            return np.memmap(path, found, "r", offset, shape)
        array = np.fromfile(path, found, count, offset=offset).reshape(shape)
    except (ValueError, OverflowError) as error:  # sizes that NumPy cannot index, a file cut short this moment
        raise ValueError(f"{path}: {error}") from None
    array.flags.writeable = False
    return array


def _safetensors_header(path: PathLike) -> tuple[dict[str, Any], int, int]:
    """The JSON header, the offset of the payload and its size."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > MAX_HEADER_BYTES:
            raise ValueError(f"{path}: no safetensors file: header of {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = _parse_json(text.decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: safetensors header is not UTF-8") from None
    _require(isinstance(header, dict), f"{path}: safetensors header is no JSON object")
    return header, 8 + length, size - 8 - length


def _tensor_entry(name: str, entry: Any, payload: int, path: PathLike) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in SAFETENSORS_DTYPES:
        raise ValueError(f"{where} has dtype {entry['dtype']!r}; known are {', '.join(SAFETENSORS_DTYPES)}")
    dtype = np.dtype(SAFETENSORS_DTYPES[entry["dtype"]])
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"{where}: data_offsets must be [begin, end]")
    shape = tuple(_require_int(n, "shape", where) for n in shape)
    begin, end = (_require_int(n, "data_offsets", where) for n in offsets)
    if not begin <= end <= payload or math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{where}: {dtype} {shape} does not fit bytes {begin}..{end} of {payload}")
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
            raise ValueError(f"{path}: tensor {name!r} leaves a gap or overlaps another at byte {entry[0]}")
        end = entry[1]
    if end != payload:
        raise ValueError(f"{path}: {payload - end} bytes belong to no tensor")
    if payload >= MAP_FROM_BYTES:
        buffer = np.memmap(path, np.uint8, "r", offset, (payload,))
    else:
        buffer = np.fromfile(path, np.uint8, payload, offset=offset)
    if buffer.size != payload:
        raise ValueError(f"{path}: the file became shorter while it was read")
    buffer.flags.writeable = False
    result = {}
    for name, (begin, end, dtype, shape) in entries.items():
        if dtype == np.bool_ and (buffer[begin:end] > 1).any():
            raise ValueError(f"{path}: tensor {name!r} holds a BOOL other than 0 and 1")
        try:
            result[name] = buffer[begin:end].view(dtype).reshape(shape)
        except (ValueError, OverflowError):
            raise ValueError(f"{path}: tensor {name!r} has an impossible shape {shape}") from None
    return result


def read_safetensors_metadata(path: PathLike) -> dict[str, str]:
    """The `__metadata__` of a safetensors file, {} where there is none."""
    metadata = _safetensors_header(path)[0].get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: __metadata__ must map strings to strings")
    return metadata


# The parts of a run ---------------------------------------------------------------------------------------------------


def read_metrics(path: PathLike) -> dict[str, np.ndarray]:
    """metrics.jsonl as {column: (N,) array}: step, phase, draws int64; train_loss, train_accuracy, lr float64.

    Columns unknown here are kept: int64 where every value is an integer, else float64; NaN where a line has no value.
    A last line without its newline is left out unless it is whole.
    """
    lines = read_text(path).split("\n")
    torn = lines.pop()
    records = [_metrics_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    try:
        records += [_metrics_line(torn, str(path))] if torn else []
    except ValueError:
        pass
    names = dict.fromkeys([*METRIC_COLUMNS, *(name for record in records for name in record)])
    return {name: _column([record.get(name) for record in records], name, path) for name in names}


def _metrics_line(line: str, where: str) -> dict[str, Any]:
    record = _parse_json(line, where)
    _require(isinstance(record, dict), f"{where}: must hold a JSON object")
    _require_int(record.get("step"), "step", where)
    for name, value in record.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{where}: {name} must be a number, got {value!r}")
    return record


def _column(values: list[Any], name: str, path: PathLike) -> np.ndarray:
    dtype = METRIC_COLUMNS.get(name, np.int64 if all(isinstance(value, int) for value in values) else np.float64)
    if dtype is np.int64 and not all(isinstance(value, int) for value in values):
        raise ValueError(f"{path}: {name} must be an integer in every line")
    try:
        return np.array([math.nan if value is None else value for value in values], dtype)
    except OverflowError:
        raise ValueError(f"{path}: {name} does not fit {np.dtype(dtype)}") from None


def read_set(path: PathLike) -> dict[str, np.ndarray]:
    """One evaluated set, `RUN/eval/NAME`.

    Returns
    -------
    dict
        step, phase (T,) and rank (S,) int64; presentations, last_seen (T, S) int64; loss, accuracy (T, S) float32;
        moment (T,) uint8: 0 before the events of the step, 1 after one of them changed data or weights.
        completed (T, S) uint8 where it was asked for: 1 if greedy continuation gives the sequence.
        T is what step.npy says; where the engine has appended more to the other files, those rows are left out.
    """
    path = Path(path)
    step = read_npy(path / "step.npy", np.int64, 1)  # first: it is written last, so the others have as many rows
    if len(step) and (step[0] < 0 or (np.diff(step) < 0).any()):
        raise ValueError(f"{path / 'step.npy'}: steps must be >= 0 and never fall")
    rank = read_npy(path / "rank.npy", np.int64, 1)
    if (rank < 0).any():
        raise ValueError(f"{path / 'rank.npy'}: ranks must be >= 0")
    result = {}
    columns = {**SET_COLUMNS, **({"completed": np.uint8} if (path / "completed.npy").is_file() else {})}
    for name, dtype in columns.items():
        file = path / f"{name}.npy"
        if name in ("step", "rank"):
            result[name] = step if name == "step" else rank
            continue
        if name == "moment" and not file.exists():
            result[name] = _moments(step, path.name)
            continue
        shape = (len(step),) if name in ("phase", "moment") else (len(step), len(rank))
        if len(step) == 0 and not file.exists():  # the set is being created
            result[name] = np.zeros(shape, dtype)
            continue
        array = read_npy(file, dtype, len(shape))
        if len(array) < len(step) or array.shape[1:] != shape[1:]:
            hint = "; if the run is just being resumed, try again" if len(array) < len(step) else ""
            raise ValueError(f"{file}: shape {array.shape}, but step.npy and rank.npy ask for {shape}{hint}")
        result[name] = array[: len(step)]
    return result


def _moments(step: np.ndarray, name: str) -> np.ndarray:
    """Of a run made before rows had a moment: the second row of a step, and the first that a switch began."""
    after = np.zeros(len(step), np.uint8)
    after[1:] = step[1:] == step[:-1]
    after[:1] = re.fullmatch("phase_[1-9][0-9]*", name) is not None
    return after


def read_sets(run: PathLike) -> dict[str, dict[str, np.ndarray]]:
    """All sets of a run by name: train, phase_0, phase_1, ..., novel, then others (`EVENT.SET` of swap tests)."""
    folders = [folder for folder in (Path(run) / "eval").glob("*") if (folder / "step.npy").is_file()]
    folders = [folder for folder in folders if (folder / "rank.npy").is_file()]
    return {folder.name: read_set(folder) for folder in sorted(folders, key=lambda folder: set_order(folder.name))}


def read_by_position(run: PathLike, sets: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """What `eval.by_position` writes beside sets, by set.

    Returns
    -------
    dict
        {set: {step, phase (T,), bins (E, 2) first rank and one past the last, position (P,) 0-based of the bit that is
        predicted, loss, accuracy (T, E, P) float32: means over the ranks of a bin, NaN where it holds none}}
    """
    result = {}
    for name, columns in sets.items():
        folder, rows = Path(run) / "eval" / name, len(columns["step"])
        if not (folder / "by_position_bins.npy").is_file() or not rows:
            continue
        bins = read_npy(folder / "by_position_bins.npy", np.int64, 2)
        found = {key: read_npy(folder / f"by_position_{key}.npy", np.float32, 3) for key in ("loss", "accuracy")}
        for key, array in found.items():
            if len(array) < rows or array.shape[1:] != (len(bins), found["loss"].shape[2]):
                raise ValueError(f"{folder / f'by_position_{key}.npy'}: shape {array.shape} does not fit its set")
        result[name] = {key: columns[key] for key in ROW_COLUMNS} | {"bins": bins}
        result[name].update({key: array[:rows] for key, array in found.items()})
    return result


def read_series(folder: PathLike) -> dict[str, np.ndarray]:
    """step.npy (T,) and the arrays NAME.npy (T, ...) beside it, of `attention/` or `measures/`; {} without."""
    folder = Path(folder)
    if not (folder / "step.npy").is_file():
        return {}
    step = read_npy(folder / "step.npy", np.int64, 1)  # first: it is written last
    result = {"step": step}
    for file in sorted(folder.glob("*.npy")):
        array = read_npy(file)
        if array.ndim == 0 or len(array) < len(step):
            raise ValueError(f"{file}: shape {array.shape}, but step.npy has {len(step)} rows")
        result.setdefault(file.stem, array[: len(step)])
    return result


def set_order(name: str) -> tuple[int, int, str]:
    """Sorts names of sets as `read_sets` has them."""
    match = re.fullmatch(r"phase_([0-9]{1,9})", name)
    if match:
        return 1, int(match.group(1)), name
    return {"train": 0, "novel": 2}.get(name, 3), 0, name


def _phase_files(folder: Path, prefix: str = "phase") -> Iterator[tuple[int, Path]]:
    found = ((re.fullmatch(prefix + r"_([0-9]{1,9})\.npy", file.name), file) for file in folder.glob(f"{prefix}_*.npy"))
    yield from sorted((int(match.group(1)), file) for match, file in found if match)


def read_theory(run: PathLike) -> dict[int, dict[str, Any]]:
    """Bayes floor and ceiling by phase.

    Returns
    -------
    dict
        {phase: {"floor": (K,) loss in nats, "ceiling": (K,) accuracy, and the scalars of theory.json: loss_floor,
        accuracy_ceiling, entropy, retrieval_ceiling, accuracy_ceiling_unweighted; with eval.by_position also
        "floor_by_position", "ceiling_by_position": (E, P), means over the ranks of a bin}}
    """
    folder = Path(run) / "theory"
    result: dict[int, dict[str, Any]] = {}
    for phase, file in _phase_files(folder):
        table = read_npy(file, np.float64, 2)
        if table.shape[1] != 2:
            raise ValueError(f"{file}: shape must be (K, 2), is {table.shape}")
        result[phase] = {"floor": table[:, 0], "ceiling": table[:, 1]}
    for phase, file in _phase_files(folder, "by_position"):
        table = read_npy(file, np.float64, 3)
        if table.shape[2] != 2:
            raise ValueError(f"{file}: shape must be (bins, positions, 2), is {table.shape}")
        result.setdefault(phase, {}).update(floor_by_position=table[..., 0], ceiling_by_position=table[..., 1])
    for file in (folder / "theory.json", Path(run) / "theory.json"):
        if not file.is_file():
            continue
        phases = read_json(file).get("phases")
        if not isinstance(phases, list) or not all(isinstance(entry, dict) for entry in phases):
            raise ValueError(f"{file}: phases must be a list of objects")
        for entry in phases:
            phase = _require_int(entry.get("phase"), "phase", str(file))
            scalars = {name: value for name, value in entry.items() if name not in ("phase", "floor", "ceiling")}
            result.setdefault(phase, {}).update(scalars)
        break
    return dict(sorted(result.items()))


def read_switches(path: PathLike) -> list[dict[str, int]]:
    """switches.json: [{"phase": 1, "step": 1000}, ...], in order."""
    switches = read_json(path, list)
    for entry in switches:
        _require(isinstance(entry, dict), f"{path}: must be a list of objects")
        _require_int(entry.get("phase"), "phase", str(path))
        _require_int(entry.get("step"), "step", str(path))
    return sorted(switches, key=lambda entry: entry["phase"])


def read_sequences(run: PathLike) -> dict[int, np.ndarray]:
    """{phase: (K, L) uint8 bits}; {} where `output.sequences` is false."""
    return {phase: read_npy(file, np.uint8, 2) for phase, file in _phase_files(Path(run) / "sequences")}


def read_snapshots(run: PathLike) -> dict[str, dict[str, np.ndarray]]:
    """{snapshot name: {tensor name: array}}."""
    files = sorted((Path(run) / "snapshots").glob("*.safetensors"))
    return {file.name[: -len(".safetensors")]: read_safetensors(file) for file in files}


def _optional(read: Callable[[Path], Any], path: Path, otherwise: Any) -> Any:
    return read(path) if path.is_file() else otherwise


def read_run(path: PathLike) -> dict[str, Any]:
    """Everything in a run directory. Only config.yaml and run.json must be there; what is not written yet is empty.

    Returns
    -------
    dict
        path, status, meta; config, facts: see read_run_json; metrics {column: (N,)}; sets {name: see read_set};
        theory {phase: see read_theory};
        switches [{phase, step}]; sequences {phase: (K, L)}; snapshots {name: {tensor: array}}; final {tensor: array};
        by_position {set: see read_by_position}; attention {step (T,), vertical_bars (T, H, 20, 20), decorrelation
        (T, 20, H, H), attn_reps (T, N, H, L, L)} as asked for, of a gpt with an axis of layers after T; measures
        {step (N,), name: (N, L)} of a DAM
    """
    path = Path(path)
    if not (path / "config.yaml").is_file():
        inside = [run.name for run in find_runs(path)][:3]
        hint = f"; it holds runs: {', '.join(inside)}" if inside else ""
        reason = f"not a run directory (no config.yaml){hint}" if path.is_dir() else "no such directory"
        raise FileNotFoundError(2, reason, str(path))
    no_metrics = {name: np.empty(0, dtype) for name, dtype in METRIC_COLUMNS.items()}
    config, facts = read_run_json(path)
    run = {
        "path": path,
        "config": config,
        "facts": facts,
        "status": _optional(read_json, path / "status.json", {}),
        "meta": _optional(read_json, path / "meta.json", {}),
        "metrics": _optional(read_metrics, path / "metrics.jsonl", no_metrics),
        "sets": read_sets(path),
        "theory": read_theory(path),
        "switches": _optional(read_switches, path / "switches.json", []),
        "sequences": read_sequences(path),
        "snapshots": read_snapshots(path),
        "final": _optional(read_safetensors, path / "final.safetensors", {}),
        "attention": read_series(path / "attention"),
        "measures": read_series(path / "measures"),
    }
    run["by_position"] = read_by_position(path, run["sets"])
    for columns in run["by_position"].values():
        columns["position"] = facts["model"]["first_position"] + np.arange(columns["loss"].shape[2])
    return run


def find_runs(path: PathLike) -> list[Path]:
    """Run directories directly inside a group's directory (or the directory itself), sorted."""
    path = Path(path)
    if (path / "config.yaml").is_file():
        return [path]
    return sorted(file.parent for file in path.glob("*/config.yaml") if not file.parent.name.startswith("."))


# Questions about a run ------------------------------------------------------------------------------------------------


def run_name(run: dict[str, Any]) -> str:
    """The run's name, else the directory's."""
    return str(run["config"].get("run") or run["path"].resolve().name)


def num_sequences(run: dict[str, Any]) -> int:
    """K."""
    return run["config"]["data"]["num_sequences"]


def settings_line(run: dict[str, Any], separator: str = ", ") -> str:
    """Model, data and optimizer on one line: `one_layer_attention: 4 heads x 16, ..., K 1000, lr 0.001, seed 0`."""
    config, model = run["config"], run["facts"]["model"]
    data, train = config["data"], config["train"]
    pairs = [("K", num_sequences(run)), ("L", data["length"]), ("Zipf", data.get("zipf_exponent"))]
    pairs += [("batch", train.get("batch_size")), ("lr", train.get("lr")), ("seed", config.get("seed"))]
    words = [f"{key} {_short(value)}" for key, value in pairs if value is not None]
    return separator.join([f"{model.get('kind')}: {model['text'].replace(', ', separator)}", *words])


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def set_phase(name: str, phase: int) -> int | None:
    """Phase whose sequences a set holds: `phase_1` and `swap.phase_1` 1, `train` and `current` `phase`, `novel` None.

    It says which Bayes floor and ceiling belong to the set.
    """
    base = name.rsplit(".", 1)[-1]
    match = re.fullmatch(r"phase_([0-9]{1,9})", base)
    if match:
        return int(match.group(1))
    return phase if base in ("train", "current") else None


def limits(run: dict[str, Any], name: str, phase: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Bayes floor and ceiling of a set's ranks, (S,) each; None where theory says nothing about the set."""
    theory = run["theory"].get(set_phase(name, phase), {})
    rank = run["sets"][name]["rank"]
    if "floor" not in theory or (len(rank) and rank.max() >= len(theory["floor"])):
        return None
    return theory["floor"][rank], theory["ceiling"][rank]


def drawn_ranks(theory: dict[int, dict[str, Any]], rank: np.ndarray) -> np.ndarray:
    """Which ranks are ever drawn, (S,) bool: one of probability 0 has no finite floor. All where no theory is known."""
    floor = next((entry["floor"] for entry in theory.values() if "floor" in entry), np.empty(0))
    return ~np.isposinf(floor)[rank] if rank.max(initial=-1) < len(floor) else np.ones(len(rank), bool)


def scored(run: dict[str, Any], name: str) -> np.ndarray:
    """The columns of a set that count: its ranks that are ever drawn, or all of sequences that are no rank (novel)."""
    rank = run["sets"][name]["rank"]
    return drawn_ranks(run["theory"] if set_phase(name, 0) is not None else {}, rank)


class Table(NamedTuple):
    """Arrays of one shape: what tells rows apart, what the further dimensions count, and the values, (T, ...) each."""

    rows: dict[str, np.ndarray]
    axes: list[dict[str, np.ndarray]]
    values: dict[str, np.ndarray]


def table_names(run: dict[str, Any]) -> list[str]:
    """What `table`, `to_frame` and --csv --set know by name, beside `metrics`."""
    names = [*run["sets"], *(f"by_position/{name}" for name in run["by_position"])]
    names += [f"attention/{name}" for name in run["attention"] if name not in ("step", "moment")]
    return names + (["measures"] if run["measures"] else [])


def table(run: dict[str, Any], what: str) -> Table:
    """A set, `by_position/SET`, `attention/NAME` or `measures`."""
    kind, _, name = what.rpartition("/")
    if not kind and what in run["sets"]:
        columns = dict(run["sets"][what])
        return Table({key: columns.pop(key) for key in ROW_COLUMNS}, [{"rank": columns.pop("rank")}], columns)
    if kind == "by_position":
        columns = dict(run["by_position"][name])
        rows, bins = {key: columns.pop(key) for key in ROW_COLUMNS}, columns.pop("bins")
        axes = [{"first_rank": bins[:, 0], "last_rank": bins[:, 1] - 1}, {"position": columns.pop("position")}]
        return Table(rows, axes, columns)
    arrays = dict(run[kind or what])
    rows = {key: arrays.pop(key) for key in ("step", "moment") if key in arrays}
    values = {name: arrays[name]} if kind else arrays
    shape = next(iter(values.values())).shape[1:]
    _require(all(array.shape[1:] == shape for array in values.values()), f"{what}: arrays of different shapes")
    counted = ATTENTION_AXES.get(name, ()) if kind else (("position", 1, 0),)
    if len(counted) != len(shape):
        counted = tuple((f"index_{axis}", 1, 0) for axis in range(len(shape)))
    axes = [{title: first + step * np.arange(size)} for (title, step, first), size in zip(counted, shape)]
    return Table(rows, axes, values)


def long_form(table: Table, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """A table as one line per element: each of its columns becomes an array (T * ...,)."""
    shape = next(iter(table.values.values())).shape[1:]
    result = {name: np.repeat(column[rows], math.prod(shape)) for name, column in table.rows.items()}
    count = len(next(iter(table.rows.values()))[rows])
    for axis, columns in enumerate(table.axes):
        for name, column in columns.items():
            along = column.reshape([-1 if other == axis else 1 for other in range(len(shape))])
            result[name] = np.tile(np.broadcast_to(along, shape).reshape(-1), count)
    result.update({name: np.asarray(array[rows]).reshape(-1) for name, array in table.values.items()})
    return result


def to_frame(run: dict[str, Any], what: str = "metrics") -> Any:
    """A pandas DataFrame: `metrics` (one line a log line) or what `table_names` lists (one line per element)."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame needs pandas (pip install pandas); everything else needs NumPy alone") from error
    if what == "metrics":
        return pandas.DataFrame(run["metrics"])
    if what not in table_names(run):
        raise KeyError(f"no set {what!r}; there are: {', '.join(['metrics', *table_names(run)])}")
    return pandas.DataFrame(long_form(table(run, what)))


def flatten(run: dict[str, Any]) -> dict[str, np.ndarray]:
    """Everything numeric under flat names: `metrics/step`, `sets/train/loss`, `theory/0/floor`, `final/wte.weight`."""
    result = {f"metrics/{name}": column for name, column in run["metrics"].items()}
    for kind in ("sets", "by_position"):
        for s, columns in run[kind].items():
            result.update({f"{kind}/{s}/{name}": array for name, array in columns.items()})
    for kind in ("attention", "measures"):
        result.update({f"{kind}/{name}": array for name, array in run[kind].items()})
    for phase, entry in run["theory"].items():
        numeric = {k: v for k, v in entry.items() if isinstance(v, (int, float, np.ndarray))}
        result.update({f"theory/{phase}/{name}": np.asarray(value) for name, value in numeric.items()})
    for key in ("phase", "step"):
        result[f"switches/{key}"] = np.array([entry[key] for entry in run["switches"]], np.int64)
    result.update({f"sequences/{phase}": bits for phase, bits in run["sequences"].items()})
    for snapshot, tensors in run["snapshots"].items():
        result.update({f"snapshots/{snapshot}/{name}": tensor for name, tensor in tensors.items()})
    result.update({f"final/{name}": tensor for name, tensor in run["final"].items()})
    return result


# The command ----------------------------------------------------------------------------------------------------------


def write_csv(run: dict[str, Any], what: str, file: Any) -> None:
    """Writes `metrics` or a table as CSV, floats with as many digits as they need."""
    writer = csv.writer(file, lineterminator="\n")
    if what == "metrics":
        writer.writerow(run["metrics"])
        writer.writerows(zip(*(column.astype(str) for column in run["metrics"].values())))
        return
    found = table(run, what)
    writer.writerow(long_form(found, slice(0, 0)))
    for row in range(len(found.rows["step"])):  # a row at a time: a set may be larger than memory
        lines = long_form(found, slice(row, row + 1))
        writer.writerows(zip(*(column.astype(str) for column in lines.values())))


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


def summary(run: dict[str, Any]) -> str:
    """A page of text: what ran, how far it is, and where each set stands against the Bayes limits."""
    status, metrics = run["status"], run["metrics"]
    switches = ", ".join(f"step {entry['step']} (to phase {entry['phase']})" for entry in run["switches"])
    steps = status.get("steps", run["config"]["train"].get("steps", "?"))
    lines = [
        f"run       {run_name(run)}",
        f"model     {settings_line(run)}",
        f"state     {status.get('state', 'unknown')}, step {status.get('step', '?')} of {steps}",
        f"switches  {switches or 'none'}",
    ]
    if len(metrics["step"]):
        last = {name: column[-1] for name, column in metrics.items()}
        at = f"at step {last['step']}, {last['draws']} draws"
        lines.append(f"train     loss {last['train_loss']:.4f}, accuracy {last['train_accuracy']:.4f} {at}")
    names = ", ".join([*run["snapshots"], *(["final"] if run["final"] else [])])
    lines.append(f"weights   {names or 'none'}")
    names = (name for name in table_names(run) if name not in run["sets"])
    further = dict.fromkeys("by_position/SET" if name.startswith("by_position/") else name for name in names)
    lines += [f"further   {', '.join(further)}"] if further else []
    if run["sets"]:
        width = max(8, *(len(name) for name in run["sets"]))
        titles = f"{'rows':>5} {'ranks':>7} {'step':>9} {'loss':>8} {'floor':>8} {'acc.':>7} {'ceiling':>8}"
        titles += " completed" if any("completed" in columns for columns in run["sets"].values()) else ""
        lines += ["", f"{'set':{width}} {titles}", *(_summary_row(run, name, width) for name in run["sets"])]
        lines += ["loss (nats) and accuracy: means over the ranks at the last row; floor, ceiling: Bayes, same ranks"]
        never = max(np.count_nonzero(~scored(run, name)) for name in run["sets"])
        if never:
            lines += [f"up to {never} ranks of a set have probability 0: they are never drawn, and in no mean"]
    return "\n".join(lines) + "\n"


def _summary_row(run: dict[str, Any], name: str, width: int) -> str:
    columns, counted = run["sets"][name], scored(run, name)
    start = f"{name:{width}} {len(columns['step']):5} {np.count_nonzero(counted):7}"
    if not len(columns["step"]) or not counted.any():
        return f"{start} {'-':>9} {'-':>8} {'-':>8} {'-':>7} {'-':>8}"
    loss, accuracy = (float(columns[key][-1][counted].mean(dtype=np.float64)) for key in ("loss", "accuracy"))
    bounds = limits(run, name, int(columns["phase"][-1]))
    floor, ceiling = ("-", "-") if bounds is None else (f"{bound[counted].mean():.4f}" for bound in bounds)
    completed = f" {columns['completed'][-1][counted].mean():9.4f}" if "completed" in columns else ""
    return f"{start} {columns['step'][-1]:9} {loss:8.4f} {floor:>8} {accuracy:7.4f} {ceiling:>8}{completed}"


def argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as a type for argparse, which would else name the function where its ValueError has the reason."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def expanded_path(text: str) -> Path:
    """The path with `~` or `~/` at its begin replaced by $HOME: a shell does not do it after `=`."""
    if not text.startswith("~"):
        return Path(text)
    if text[1:2] not in ("", "/"):
        raise ValueError(f"{text}: only ~ and ~/ mean a home folder here; write the path out (./{text})")
    if not os.environ.get("HOME"):
        raise ValueError(f"{text}: HOME is not set; write the path out")
    return Path(os.environ["HOME"], text[2:])


path_argument = argument(expanded_path)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """`parser.parse_args` that exits with 64, as all of mnemo does, on a usage error."""
    try:
        return parser.parse_args(argv)
    except SystemExit as stop:
        raise SystemExit(EXIT_USAGE if stop.code == 2 else stop.code) from None


def usage_error(message: str) -> int:
    """Prints a usage error and returns its exit code."""
    _complain(f"{message} (--help shows how)")
    return EXIT_USAGE


def _as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a terminal's alphabet lacks: the bytes of a path (lone surrogates) as they came, all else escaped."""
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= error.object[error.start] <= "\udcff":
        return os.fsencode(error.object[error.start]), error.start + 1
    error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


class _Output(io.FileIO):
    """Standard output that remembers why it was not written: argparse passes over it."""

    failure: OSError | None = None

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; errors become one line on stderr and mnemo's exit codes: 65 corrupt data, 74 I/O.

    Lost output is an error too, but for a closed pipe: 141, and nothing is said. Ctrl-C ends without a traceback.
    """
    codecs.register_error("as_given", _as_given)
    for descriptor in range(3):  # a closed one would be the number of the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
    output = _Output(1, "w", closefd=False)
    if sys.stdout is sys.__stdout__:
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(output), encoding, line_buffering=output.isatty())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="as_given")
    code: Any = EXIT_IO
    failure = None
    try:
        code = command()
    except SystemExit as stop:  # --help, a usage error
        code = stop.code or 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except ValueError as error:
        _complain(str(error))
        code = EXIT_DATA
    except OSError as error:
        failure = error
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    lost = output.failure
    if lost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is tried again at exit
        if code == 0 or (failure and failure.filename is None):
            if lost.errno == errno.EPIPE:  # `| head` has seen enough
                return EXIT_BROKEN_PIPE
            failure, code = OSError(lost.errno, lost.strerror, "standard output"), EXIT_IO
    if failure:
        _complain(f"{failure.filename or 'I/O'}: {failure.strerror or failure}")
    return code


def _complain(message: str) -> None:
    """One line on stderr, if there is one."""
    try:
        print(f"error: {message}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo show",
        description="Summary of a mnemo run directory; its numbers as CSV or NumPy archive. Changes nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo show cache/zipf/zipf                                 what ran, and where it stands
  mnemo show cache/zipf/zipf --csv metrics.csv               a line per log line
  mnemo show cache/zipf/zipf --csv train.csv --set train     a line per evaluation and rank
  mnemo show cache/zipf/zipf --csv - --set phase_0 | head    to the terminal
  mnemo show RUN --csv p.csv --set by_position/phase_0       a line per evaluation, rank bin and position
  mnemo show cache/zipf/zipf --npz run.npz                   everything numeric: np.load("run.npz")["sets/train/loss"]

exit codes: 0 done, 64 usage, 65 corrupt data, 74 a file is missing, or cannot be read or written""",
    )
    parser.add_argument("run", metavar="RUN", type=path_argument, help="run directory, such as cache/GROUP/RUN")
    parser.add_argument(
        "--csv",
        metavar="OUT",
        type=path_argument,
        help="write metrics.jsonl, or with --set a set, as CSV; - is stdout",
    )
    parser.add_argument(
        "--set",
        metavar="NAME",
        help="with --csv, instead of the metrics: train, phase_0, novel, ...; "
        "by_position/SET, attention/NAME, measures where the run has them",
    )
    parser.add_argument("--npz", metavar="OUT", type=path_argument, help="write everything numeric as a NumPy archive")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(_parser(), argv)
    if arguments.set and not arguments.csv:
        return usage_error("--set goes with --csv")
    run = read_run(arguments.run)
    what = arguments.set or "metrics"
    if what not in ("metrics", *table_names(run)):
        known = ", ".join(table_names(run)) or "none yet"
        return usage_error(f"{arguments.run} has no set {what!r}; it has: {known}")
    if arguments.csv == Path("-"):
        write_csv(run, what, sys.stdout)
    elif arguments.csv:
        write_atomically(arguments.csv, lambda file: write_csv(run, what, file), binary=False)
        print(arguments.csv)
    if arguments.npz:
        write_atomically(arguments.npz, lambda file: np.savez(file, **flatten(run)))
        print(arguments.npz)
    if not arguments.csv and not arguments.npz:
        sys.stdout.write(summary(run))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
