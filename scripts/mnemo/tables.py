"""Tables of a run: its arrays as one line per element, for pandas, CSV and NumPy archives."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemo.errors import require
from mnemo.runs import ROW_COLUMNS, Run, differing

ATTENTION_AXES = {  # of an evaluation's array, what each dimension counts: title, distance, first
    "vertical_bars": (("head", 1, 0), ("position", 5, 0), ("later_position", 5, 1)),
    "decorrelation": (("position", 5, 0), ("head", 1, 0), ("other_head", 1, 0)),
    "attn_reps": (("sequence", 1, 0), ("head", 1, 0), ("query", 1, 0), ("key", 1, 0)),
}  # fmt: skip


class Table(NamedTuple):
    """Arrays of one shape: what tells rows apart, what the further dimensions count, and the values, (T, ...) each."""

    rows: dict[str, np.ndarray]
    axes: list[dict[str, np.ndarray]]
    values: dict[str, np.ndarray]


def names(run: Run) -> list[str]:
    """What `table`, `to_frame` and --csv --set know by name, beside `metrics`."""
    names = [*run.sets, *(f"by_position/{name}" for name in run.by_position)]
    names += [f"attention/{name}" for name in run.attention if name not in ("step", "moment")]
    return names + (["measures"] if run.measures else [])


def table(run: Run, what: str) -> Table:
    """A set, `by_position/SET`, `attention/NAME` or `measures`."""
    kind, _, name = what.rpartition("/")
    if not kind and what in run.sets:
        columns = dict(run.sets[what])
        return Table({key: columns.pop(key) for key in ROW_COLUMNS}, [{"rank": columns.pop("rank")}], columns)
    if kind == "by_position":
        columns = dict(run.by_position[name])
        rows, bins = {key: columns.pop(key) for key in ROW_COLUMNS}, columns.pop("bins")
        axes = [{"first_rank": bins[:, 0], "last_rank": bins[:, 1] - 1}, {"position": columns.pop("position")}]
        return Table(rows, axes, columns)
    arrays = dict(run[kind or what])
    rows = {key: arrays.pop(key) for key in ("step", "moment") if key in arrays}
    values = {name: arrays[name]} if kind else arrays
    shape = next(iter(values.values())).shape[1:]
    require(all(array.shape[1:] == shape for array in values.values()), f"{what}: arrays of different shapes")
    counted = ATTENTION_AXES.get(name, ()) if kind else (("position", 1, 0),)
    if counted and len(shape) == len(counted) + 1:  # of a gpt
        counted = (("layer", 1, 0), *counted)
    elif len(counted) != len(shape):
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


def to_frame(run: Run, what: str = "metrics") -> Any:
    """A pandas DataFrame: `metrics` (one line a log line) or what `names` lists (one line per element)."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame needs pandas (pip install pandas); everything else needs NumPy alone") from error
    if what == "metrics":
        return pandas.DataFrame(run.metrics)
    if what not in names(run):
        raise KeyError(f"no set {what!r}; there are: {', '.join(['metrics', *names(run)])}")
    return pandas.DataFrame(long_form(table(run, what)))


def group_frame(runs: Sequence[Run], what: str = "metrics") -> Any:
    """The tables of runs that have one, under each other, behind columns `run` and the settings that differ.

    Raises
    ------
    KeyError
        Where no run has such a table.
    """
    frames = {run: to_frame(run, what) for run in runs if what == "metrics" or what in names(run)}
    if not frames:
        raise KeyError(f"no run has a set {what!r}")
    import pandas

    varying = [name for name in differing([run.settings for run in frames]) if name not in ("name", "group", "run")]
    for run, frame in frames.items():
        columns = {"run": run.path.name, **{name: run.settings.get(name) for name in varying}}
        for place, (name, value) in enumerate(columns.items()):
            frame.insert(place, name, [value] * len(frame), allow_duplicates=name != "run")
    return pandas.concat(frames.values(), ignore_index=True)


def flatten(run: Run) -> dict[str, np.ndarray]:
    """Everything numeric under flat names: `metrics/step`, `sets/train/loss`, `theory/0/floor`, `final/wte.weight`."""
    result = {f"metrics/{name}": column for name, column in run.metrics.items()}
    for kind in ("sets", "by_position"):
        for s, columns in run[kind].items():
            result.update({f"{kind}/{s}/{name}": array for name, array in columns.items()})
    for kind in ("attention", "measures"):
        result.update({f"{kind}/{name}": array for name, array in run[kind].items()})
    for phase, entry in run.theory.items():
        numeric = {k: v for k, v in entry.items() if isinstance(v, (int, float, np.ndarray))}
        result.update({f"theory/{phase}/{name}": np.asarray(value) for name, value in numeric.items()})
    for key in ("phase", "step"):
        result[f"switches/{key}"] = np.array([entry[key] for entry in run.switches], np.int64)
    result.update({f"sequences/{phase}": bits for phase, bits in run.sequences.items()})
    for snapshot, tensors in run.snapshots.items():
        result.update({f"snapshots/{snapshot}/{name}": tensor for name, tensor in tensors.items()})
    result.update({f"final/{name}": tensor for name, tensor in run.final.items()})
    return result


def write_csv(run: Run, what: str, file: Any) -> None:
    """Writes `metrics` or a table as CSV, floats with as many digits as they need."""
    writer = csv.writer(file, lineterminator="\n")
    if what == "metrics":
        writer.writerow(run.metrics)
        writer.writerows(zip(*(column.astype(str) for column in run.metrics.values())))
        return
    found = table(run, what)
    writer.writerow(long_form(found, slice(0, 0)))
    for row in range(len(found.rows["step"])):  # a row at a time: a set may be larger than memory
        lines = long_form(found, slice(row, row + 1))
        writer.writerows(zip(*(column.astype(str) for column in lines.values())))
