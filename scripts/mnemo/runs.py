"""Runs: what is in their directories, read on first use and kept.

    run = runs.open("cache/freeze_attention/freeze_attention")
    run.metrics["train_loss"]                    # (N,) one value a log line
    run.sets["train"]["accuracy"]                # (T, S) evaluation x rank
    run.by_position["phase_0"]["accuracy"]       # (T, E, P) evaluation x rank bin x position, where it was asked for
    run.to_frame("phase_0")                      # long pandas table

A run may be read while it is written: a torn last line is left out, and the number of evaluations comes from step.npy.
Corrupt files raise DataError with a message `FILE: what is wrong`; missing ones raise OSError.
Letters: N log lines, T evaluations, S evaluated ranks, E rank bins, P predicted positions, K sequences, L bits a
sequence.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from mnemo.errors import DataError, require
from mnemo.files import PathLike, parse_json, read_json, read_npy, read_safetensors, read_text, require_int

METRIC_COLUMNS = {
    "step": np.int64, "phase": np.int64, "draws": np.int64,
    "train_loss": np.float64, "train_accuracy": np.float64, "lr": np.float64,
}  # fmt: skip
SET_COLUMNS = {
    "step": np.int64, "moment": np.uint8, "phase": np.int64, "rank": np.int64, "presentations": np.int64,
    "last_seen": np.int64, "loss": np.float32, "accuracy": np.float32,
}  # fmt: skip
ROW_COLUMNS = ("step", "moment", "phase")  # one number an evaluation


class Lazy(Mapping):
    """Values by key, each made by its function on first use and kept."""

    def __init__(self, makers: Mapping[Any, Callable[[], Any]]) -> None:
        self._makers, self._made = dict(makers), {}

    def __getitem__(self, key: Any) -> Any:
        if key not in self._made:
            self._made[key] = self._makers[key]()
        return self._made[key]

    def __contains__(self, key: object) -> bool:
        return key in self._makers

    def __iter__(self) -> Iterator[Any]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"Lazy({', '.join(map(repr, self))})"


Columns = Mapping  # {name: array}: the rows of an evaluated set, see read_set


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
        raise DataError(
            f"{run}: has no run.json: an older version wrote it. If the run was imported, import its record again; "
            f"else complete it with\n  {command}"
        )
    settings = read_json(path)
    facts = settings.pop("facts", None)
    for block in ("data", "model", "train"):
        require(isinstance(settings.get(block), dict), f"{path}: must hold an object {block}")
    for key in ("num_sequences", "length"):
        require(require_int(settings["data"].get(key), key, str(path)) > 0, f"{path}: {key} must be positive")
    require(isinstance(settings.get("events"), list), f"{path}: must hold a list of events")
    require(isinstance(facts, dict), f"{path}: must hold an object facts")
    for entry, kinds in ((facts, _FACTS), (facts.get("model"), _MODEL_FACTS)):
        for key, kind in kinds.items():
            require(isinstance(entry.get(key), kind), f"{path}: facts: {key} is missing or of another type")
    return settings, facts


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
    record = parse_json(line, where)
    require(isinstance(record, dict), f"{where}: must hold a JSON object")
    require_int(record.get("step"), "step", where)
    for name, value in record.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise DataError(f"{where}: {name} must be a number, got {value!r}")
    return record


def _column(values: list[Any], name: str, path: PathLike) -> np.ndarray:
    dtype = METRIC_COLUMNS.get(name, np.int64 if all(isinstance(value, int) for value in values) else np.float64)
    if dtype is np.int64 and not all(isinstance(value, int) for value in values):
        raise DataError(f"{path}: {name} must be an integer in every line")
    try:
        return np.array([math.nan if value is None else value for value in values], dtype)
    except OverflowError:
        raise DataError(f"{path}: {name} does not fit {np.dtype(dtype)}") from None


def read_set(path: PathLike) -> Columns:
    """One evaluated set, `RUN/eval/NAME`; but for step and rank, its arrays are read on first use.

    Returns
    -------
    Lazy
        step, phase (T,) and rank (S,) int64; presentations, last_seen (T, S) int64; loss, accuracy (T, S) float32;
        moment (T,) uint8: 0 before the events of the step, 1 after one of them changed data or weights.
        completed (T, S) uint8 where it was asked for: 1 if greedy continuation gives the sequence.
        T is what step.npy says; where the engine has appended more to the other files, those rows are left out.
    """
    path = Path(path)
    step = read_npy(path / "step.npy", np.int64, 1)  # first: it is written last, so the others have as many rows
    if len(step) and (step[0] < 0 or (np.diff(step) < 0).any()):
        raise DataError(f"{path / 'step.npy'}: steps must be >= 0 and never fall")
    rank = read_npy(path / "rank.npy", np.int64, 1)
    if (rank < 0).any():
        raise DataError(f"{path / 'rank.npy'}: ranks must be >= 0")
    columns = {**SET_COLUMNS, **({"completed": np.uint8} if (path / "completed.npy").is_file() else {})}
    makers = {name: partial(_read_column, path, name, dtype, step, rank) for name, dtype in columns.items()}
    return Lazy({**makers, "step": lambda: step, "rank": lambda: rank})


def _read_column(path: Path, name: str, dtype: Any, step: np.ndarray, rank: np.ndarray) -> np.ndarray:
    file = path / f"{name}.npy"
    if name == "moment" and not file.exists():
        return _moments(step, path.name)
    shape = (len(step),) if name in ROW_COLUMNS else (len(step), len(rank))
    if len(step) == 0 and not file.exists():  # the set is being created
        return np.zeros(shape, dtype)
    array = read_npy(file, dtype, len(shape))
    if len(array) < len(step) or array.shape[1:] != shape[1:]:
        hint = "; if the run is just being resumed, try again" if len(array) < len(step) else ""
        raise DataError(f"{file}: shape {array.shape}, but step.npy and rank.npy ask for {shape}{hint}")
    return array[: len(step)]


def _moments(step: np.ndarray, name: str) -> np.ndarray:
    """Of a run made before rows had a moment: the second row of a step, and the first that a switch began."""
    after = np.zeros(len(step), np.uint8)
    after[1:] = step[1:] == step[:-1]
    after[:1] = re.fullmatch("phase_[1-9][0-9]*", name) is not None
    return after


def read_sets(run: PathLike) -> Mapping[str, Columns]:
    """All sets of a run by name: train, phase_0, phase_1, ..., novel, then others (`EVENT.SET` of swap tests)."""
    folders = [folder for folder in (Path(run) / "eval").glob("*") if (folder / "step.npy").is_file()]
    folders = [folder for folder in folders if (folder / "rank.npy").is_file()]
    folders.sort(key=lambda folder: set_order(folder.name))
    return Lazy({folder.name: partial(read_set, folder) for folder in folders})


def read_by_position(run: PathLike, sets: Mapping[str, Columns], first: int) -> Mapping[str, Columns]:
    """What `eval.by_position` writes beside sets, by set; `first` is the position that is predicted first.

    Returns
    -------
    Lazy
        {set: {step, moment, phase (T,), bins (E, 2) first rank and one past the last, position (P,) 0-based of the bit
        that is predicted, loss, accuracy (T, E, P) float32: means over the ranks of a bin, NaN where it holds none}}
    """
    folders = {name: Path(run) / "eval" / name for name in sets}
    found = [name for name, folder in folders.items() if (folder / "by_position_bins.npy").is_file()]
    found = [name for name in found if len(sets[name]["step"])]
    return Lazy({name: partial(_read_positions, folders[name], sets[name], first) for name in found})


def _read_positions(folder: Path, columns: Columns, first: int) -> dict[str, np.ndarray]:
    rows, bins = len(columns["step"]), read_npy(folder / "by_position_bins.npy", np.int64, 2)
    found = {key: read_npy(folder / f"by_position_{key}.npy", np.float32, 3) for key in ("loss", "accuracy")}
    count = found["loss"].shape[2]
    for key, array in found.items():
        if len(array) < rows or array.shape[1:] != (len(bins), count):
            raise DataError(f"{folder / f'by_position_{key}.npy'}: shape {array.shape} does not fit its set")
    result = {**{key: columns[key] for key in ROW_COLUMNS}, "bins": bins, "position": first + np.arange(count)}
    return {**result, **{key: array[:rows] for key, array in found.items()}}


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
            raise DataError(f"{file}: shape {array.shape}, but step.npy has {len(step)} rows")
        result.setdefault(file.stem, array[: len(step)])
    return result


def phase_number(name: str) -> int | None:
    """1 for set `phase_1`; None for any other name."""
    match = re.fullmatch(r"phase_([0-9]{1,9})", name)
    return int(match.group(1)) if match else None


def set_order(name: str) -> tuple[int, int, str]:
    """Sorts names of sets as `read_sets` has them."""
    phase = phase_number(name)
    if phase is not None:
        return 1, phase, name
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
            raise DataError(f"{file}: shape must be (K, 2), is {table.shape}")
        result[phase] = {"floor": table[:, 0], "ceiling": table[:, 1]}
    for phase, file in _phase_files(folder, "by_position"):
        table = read_npy(file, np.float64, 3)
        if table.shape[2] != 2:
            raise DataError(f"{file}: shape must be (bins, positions, 2), is {table.shape}")
        result.setdefault(phase, {}).update(floor_by_position=table[..., 0], ceiling_by_position=table[..., 1])
    for file in (folder / "theory.json", Path(run) / "theory.json"):
        if not file.is_file():
            continue
        phases = read_json(file).get("phases")
        if not isinstance(phases, list) or not all(isinstance(entry, dict) for entry in phases):
            raise DataError(f"{file}: phases must be a list of objects")
        for entry in phases:
            phase = require_int(entry.get("phase"), "phase", str(file))
            scalars = {name: value for name, value in entry.items() if name not in ("phase", "floor", "ceiling")}
            result.setdefault(phase, {}).update(scalars)
        break
    return dict(sorted(result.items()))


def read_switches(path: PathLike) -> list[dict[str, int]]:
    """switches.json: [{"phase": 1, "step": 1000}, ...], in order."""
    switches = read_json(path, list)
    for entry in switches:
        require(isinstance(entry, dict), f"{path}: must be a list of objects")
        require_int(entry.get("phase"), "phase", str(path))
        require_int(entry.get("step"), "step", str(path))
    return sorted(switches, key=lambda entry: entry["phase"])


def read_sequences(run: PathLike) -> Mapping[int, np.ndarray]:
    """{phase: (K, L) uint8 bits}; {} where `output.sequences` is false."""
    files = _phase_files(Path(run) / "sequences")
    return Lazy({phase: partial(read_npy, file, np.uint8, 2) for phase, file in files})


def read_snapshots(run: PathLike) -> Mapping[str, dict[str, np.ndarray]]:
    """{snapshot name: {tensor name: array}}."""
    files = sorted((Path(run) / "snapshots").glob("*.safetensors"))
    return Lazy({file.name[: -len(".safetensors")]: partial(read_safetensors, file) for file in files})


# Runs -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run(Mapping):
    """A run directory; `run["sets"]` is `run.sets`. What is not written yet is empty.

    path, status, meta; config, facts: see read_run_json; metrics {column: (N,)}; sets {name: see read_set};
    theory {phase: see read_theory};
    switches [{phase, step}]; sequences {phase: (K, L)}; snapshots {name: {tensor: array}}; final {tensor: array};
    by_position {set: see read_by_position}; attention {step (T,), vertical_bars (T, H, 20, 20), decorrelation
    (T, 20, H, H), attn_reps (T, N, H, L, L)} as asked for, of a gpt with an axis of layers after T; measures
    {step (N,), name: (N, L)} of a DAM
    """

    path: Path
    origin: Run | None = field(default=None, repr=False, compare=False)  # of which this is another view

    def __getattr__(self, part: str) -> Any:  # of what is not in __dict__ yet
        if part not in _READERS:
            raise AttributeError(f"a run has no {part!r}")
        value = _READERS[part](self) if self.origin is None else getattr(self.origin, part)
        self.__dict__[part] = value
        return value

    def __getitem__(self, part: str) -> Any:
        if part not in PARTS:
            raise KeyError(part)
        return getattr(self, part)

    def __iter__(self) -> Iterator[str]:
        return iter(PARTS)

    def __len__(self) -> int:
        return len(PARTS)

    def load(self) -> Run:
        """Reads all that has not been read yet, so that nothing can fail afterwards; returns itself."""
        for part in self.values():
            _load(part)
        return self

    def release(self) -> None:
        """Forgets what was read: mapped files hold descriptors, of which a process has about a thousand."""
        for part in set(self.__dict__) - {"path", "origin"}:
            del self.__dict__[part]

    def replace(self, **parts: Any) -> Run:
        """The run with other parts: `run.replace(sets=...)`."""
        require(set(parts) <= set(PARTS), f"a run has no {', '.join(set(parts) - set(PARTS))}")
        other = Run(self.path, self)
        other.__dict__.update(parts)
        return other

    @property
    def name(self) -> str:
        """The run's name, else the directory's."""
        return str(self.config.get("run") or self.path.resolve().name)

    @property
    def num_sequences(self) -> int:
        """K."""
        return self.config["data"]["num_sequences"]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by their dotted names, but for events."""
        return flat(self.config)

    def settings_line(self, separator: str = ", ") -> str:
        """Model, data and optimizer on one line: `one_layer_attention: 4 heads x 16, ..., K 1000, lr 0.001, seed 0`."""
        model, data, train = self.facts["model"], self.config["data"], self.config["train"]
        pairs = [("K", self.num_sequences), ("L", data["length"]), ("Zipf", data.get("zipf_exponent"))]
        pairs += [("batch", train.get("batch_size")), ("lr", train.get("lr")), ("seed", self.config.get("seed"))]
        words = [f"{key} {_short(value)}" for key, value in pairs if value is not None]
        return separator.join([f"{model.get('kind')}: {model['text'].replace(', ', separator)}", *words])

    def limits(self, name: str, phase: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Bayes floor and ceiling of a set's ranks, (S,) each; None where theory says nothing about the set."""
        return rank_limits(self.theory.get(set_phase(name, phase), {}), self.sets[name]["rank"])

    def scored(self, name: str) -> np.ndarray:
        """The columns of a set that count: its ranks that are ever drawn, or all of sequences that are no rank."""
        rank = self.sets[name]["rank"]
        return drawn_ranks(self.theory if set_phase(name, 0) is not None else {}, rank)

    def to_frame(self, what: str = "metrics") -> Any:
        """A pandas DataFrame: `metrics` (one line a log line) or what `tables.names` lists (one line per element)."""
        from mnemo import tables

        return tables.to_frame(self, what)


def _optional(run: Run, name: str, read: Callable[[Path], Any], otherwise: Any) -> Any:
    return read(run.path / name) if (run.path / name).is_file() else otherwise


_NO_METRICS = {name: np.empty(0, dtype) for name, dtype in METRIC_COLUMNS.items()}
_READERS: dict[str, Callable[[Run], Any]] = {
    "_run_json": lambda run: read_run_json(run.path),
    "config": lambda run: run._run_json[0],
    "facts": lambda run: run._run_json[1],
    "status": lambda run: _optional(run, "status.json", read_json, {}),
    "meta": lambda run: _optional(run, "meta.json", read_json, {}),
    "metrics": lambda run: _optional(run, "metrics.jsonl", read_metrics, _NO_METRICS),
    "sets": lambda run: read_sets(run.path),
    "theory": lambda run: read_theory(run.path),
    "switches": lambda run: _optional(run, "switches.json", read_switches, []),
    "sequences": lambda run: read_sequences(run.path),
    "snapshots": lambda run: read_snapshots(run.path),
    "final": lambda run: _optional(run, "final.safetensors", read_safetensors, {}),
    "attention": lambda run: read_series(run.path / "attention"),
    "measures": lambda run: read_series(run.path / "measures"),
    "by_position": lambda run: read_by_position(run.path, run.sets, run.facts["model"]["first_position"]),
}
PARTS = ("path", *list(_READERS)[1:])


def _load(part: Any) -> None:
    if isinstance(part, Mapping):
        for value in part.values():
            _load(value)


@dataclass(frozen=True)
class Group:
    """A folder of runs: what a sweep, or several calls with one `group`, made."""

    path: Path

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Its runs, sorted by directory."""
        return tuple(map(Run, find_runs(self.path)))

    def to_frame(self, what: str = "metrics") -> Any:
        """The tables of all runs that have one, under each other: `run`, and the settings that differ, first."""
        from mnemo import tables

        return tables.group_frame(self.runs, what)


def open(path: PathLike) -> Run | Group:
    """The run in a directory, or the folder of runs.

    Raises
    ------
    FileNotFoundError
        Where there is neither.
    DataError
        Where run.json is missing or broken.
    """
    path = Path(path)
    return open_run(path) if (path / "config.yaml").is_file() or not find_runs(path) else Group(path)


def open_run(path: PathLike) -> Run:
    """The run in a directory; a folder of runs is refused by naming some. Raises as `open` does."""
    path = Path(path)
    if not (path / "config.yaml").is_file():
        inside = [run.name for run in find_runs(path)][:3]
        hint = f"; it holds runs: {', '.join(inside)}" if inside else ""
        reason = f"not a run directory (no config.yaml){hint}" if path.is_dir() else "no such directory"
        raise FileNotFoundError(2, reason, str(path))
    run = Run(path)
    run.config  # noqa: B018 (refused at once, not in the middle of something)
    return run


def find_runs(path: PathLike) -> list[Path]:
    """Run directories directly inside a group's directory (or the directory itself), sorted."""
    path = Path(path)
    if (path / "config.yaml").is_file():
        return [path]
    return sorted(file.parent for file in path.glob("*/config.yaml") if not file.parent.name.startswith("."))


def run_state(directory: Path) -> str:
    """What status.json says; `waiting` before a run began, `missing` without a directory."""
    if not (directory / "status.json").is_file():
        return "waiting" if directory.is_dir() else "missing"
    return str(read_json(directory / "status.json").get("state", "unknown"))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names; lists of objects (events) are left out."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        elif not isinstance(value, list) or not any(isinstance(item, dict) for item in value):
            result[prefix + key] = value
    return result


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the settings that tell some apart."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if any(setting.get(name) != settings[0].get(name) for setting in settings)]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# What sets hold -------------------------------------------------------------------------------------------------------


def set_phase(name: str, phase: int) -> int | None:
    """Phase whose sequences a set holds: `phase_1` and `swap.phase_1` 1, `train` and `current` `phase`, `novel` None.

    It says which Bayes floor and ceiling belong to the set.
    """
    base = name.rsplit(".", 1)[-1]
    return phase if base in ("train", "current") else phase_number(base)


def rank_limits(entry: Mapping[str, Any], rank: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Bayes floor and ceiling of ranks, (S,) each, from a phase of `theory`; None where it says nothing about them."""
    if "floor" not in entry or rank.max(initial=-1) >= len(entry["floor"]):
        return None
    return entry["floor"][rank], entry["ceiling"][rank]


def drawn_ranks(theory: dict[int, dict[str, Any]], rank: np.ndarray) -> np.ndarray:
    """Which ranks are ever drawn, (S,) bool: one of probability 0 has no finite floor. All where no theory is known."""
    floor = next((entry["floor"] for entry in theory.values() if "floor" in entry), np.empty(0))
    return ~np.isposinf(floor)[rank] if rank.max(initial=-1) < len(floor) else np.ones(len(rank), bool)
