"""What a report holds, as one tree of plain values and one array of numbers, without a word on how it looks.

Curves of many evaluations are thinned, and their numbers keep 12 binary digits (an error of 1 in 8192 at most), so that
200 runs fit into a page. Steps are exact. Letters: T evaluations, S evaluated ranks, E rank bins.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import curves, members, sweeps
from mnemo.errors import DataError
from mnemo.files import PathLike, read_text
from mnemo.runs import Run, differing, flat, run_state, set_order

POINTS = 500  # of a curve
MAX_NUMBERS = 4_000_000  # in all curves together: at most 9 MB of the page
LEAST_POINTS = 20
ALL_RANKS = "all ranks"
APART = {"name", "group", "run", "threads", "output", "slurm"}  # settings that are no column of the table
FIRST_COLUMNS = ("model.kind", "train.lr", "seed")
RUN_FILES = ("run.json", "status.json", "metrics.jsonl")
MAX_LINES = 12  # of a sweep's plot
MAX_LOOSE = 3  # settings that runs outside of sweeps may differ in


class Numbers:
    """All curves, one after another; `add` says where one lies: [start, count]."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.count = 0

    def add(self, values: np.ndarray, exact: bool = False) -> list[int]:
        place = [self.count, len(values)]
        self.parts.append(np.asarray(values, np.float32) if exact else _rounded(values))
        self.count += len(values)
        return place

    def joined(self) -> np.ndarray:
        return np.concatenate([np.empty(0, np.float32), *self.parts]).astype("<f4")


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 of which 12 digits after the first are kept: the zeros behind them are packed well."""
    bits = np.array(values, np.float32).view(np.uint32)
    finite = np.isfinite(bits.view(np.float32))
    rounded = (bits + np.uint32(1 << 10)) & np.uint32(0xFFFFF800)
    return np.where(finite, rounded, bits).astype(np.uint32).view(np.float32)


def thinned(count: int, most: int) -> np.ndarray:
    """Places of at most `most` of `count` rows, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, max(2, most))).round().astype(np.int64))


# Which runs -----------------------------------------------------------------------------------------------------------


def find(arguments: Sequence[PathLike]) -> tuple[list[Path], list[str]]:
    """Run directories in each argument or up to two levels below it, each once, and what to say of the others."""
    found: dict[Path, Path] = {}
    problems: list[str] = []
    for argument in map(Path, arguments):
        inside = list(_runs_below(argument, problems, 2)) if argument.is_dir() else []
        if not inside and not any(problem.startswith(str(argument)) for problem in problems):
            reason = "holds no run (no config.yaml in it or up to two levels below)"
            reason = reason if argument.is_dir() else "is a file, no run directory" if argument.exists() else ""
            problems.append(f"{argument}: {reason or 'no such directory'}")
        for path in inside:
            found.setdefault(path.resolve(), path)
    return list(found.values()), problems


def _runs_below(folder: Path, problems: list[str], depth: int) -> Iterator[Path]:
    try:
        names = {entry.name: entry.is_dir() for entry in os.scandir(folder)}
    except OSError as error:
        problems.append(f"{folder}: {error.strerror}")
        return
    if "config.yaml" in names:
        yield folder
    elif names.keys() & set(RUN_FILES):
        problems.append(f"{folder}: has no config.yaml, so that it is no run")
    elif depth:
        for name in sorted(name for name, is_folder in names.items() if is_folder and not name.startswith(".")):
            yield from _runs_below(folder / name, problems, depth - 1)


# One run --------------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A value as JSON has it: None for NaN, "inf" for what is infinite, text for what is no number."""
    if isinstance(value, bool) or value is None:
        return value if value is None else str(value).lower()
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(float(value))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _events(run: Run) -> list[dict[str, Any]]:
    """Events that happen once: {step, text, kind}."""
    found = []
    for event in run.config["events"]:
        if isinstance(event, dict) and isinstance(event.get("step"), int):
            kind, named = str(event.get("kind", "event")), event.get("params")
            what = f" {', '.join(map(str, named))}" if isinstance(named, list) and named else ""
            found.append({"step": event["step"], "kind": kind, "text": kind + what})
    return found


def settings_of(run: Run) -> dict[str, Any]:
    """Settings that may tell a run from others, `events` among them as a text."""
    settings = {key: _plain(value) for key, value in flat(run.config).items() if key.split(".")[0] not in APART}
    words = [f"{event['text']} at {event['step']}" for event in _events(run)]
    return {**settings, "events": "; ".join(words) or "none"}


def _set_of(run: Run) -> str | None:
    """The set whose last row is a run's result: `train` where there is one."""
    names = [name for name in run.sets if len(run.sets[name]["step"]) and len(run.sets[name]["rank"])]
    return min(names, key=set_order, default=None)


def result_of(run: Run) -> dict[str, Any]:
    """Loss and accuracy at the last evaluation beside what the Bayes predictor has; {} before the first."""
    name = _set_of(run)
    if name is None:
        return {}
    found = sweeps.measures(sweeps.last_row(run, name), name)
    limits = {key: _plain(measure.limit) for key, measure in found.items()}
    values = {key: _plain(measure.value) for key, measure in found.items()}
    return {"set": name, **values, "floor": limits["loss"], "ceiling": limits["accuracy"]}


def curves_of(run: Run, bins: Sequence[curves.Bin], points: int, numbers: Numbers) -> list[dict[str, Any]]:
    """Curves by phase: its sequences while they are current, and those of phase 0 also after its end.

    Returns
    -------
    list
        {phase, after: whether the phase is over, step: place, all: evaluations, ranks, every: stride or None,
        bins [{bin: index, 0 for all ranks, ranks, loss, accuracy, presentations: places, floor, ceiling}]}
    """
    parts = []
    for phase in range(len(run.switches) + 1):
        columns = curves.phase_columns(run.sets, phase)
        if columns is not None:
            parts.append((phase, False, columns, np.flatnonzero(columns["phase"] == phase)))
            parts += [(0, True, columns, np.flatnonzero(columns["phase"] > 0))] if phase == 0 else []
    whole = sum(len(rows) for _, after, _, rows in parts if not after)
    return [
        _curve(run, phase, after, columns, rows[thinned(len(rows), round(points * len(rows) / max(whole, 1)))],
               len(rows), bins, numbers)
        for phase, after, columns, rows in parts if len(rows)
    ]  # fmt: skip


def _curve(
    run: Run, phase: int, after: bool, columns: Any, rows: np.ndarray, count: int, bins: Sequence[curves.Bin],
    numbers: Numbers,
) -> dict[str, Any]:  # fmt: skip
    rank = columns["rank"]
    every = [(0, max(int(rank.max()) + 1, 1)), *bins]
    means = {key: curves.bin_mean(columns[key][rows], rank, every) for key in ("loss", "accuracy", "presentations")}
    floor, ceiling = (
        np.full(len(every), np.nan) if limit is None else curves.bin_mean(limit, rank, every)
        for limit in curves.limits(run.theory, rank, phase)
    )
    inside = curves.bin_sizes(rank, every).tolist()
    kept = [
        {"bin": index, "ranks": ranks, "floor": _plain(floor[index]), "ceiling": _plain(ceiling[index]),
         **{key: numbers.add(mean[:, index]) for key, mean in means.items()}}
        for index, ranks in enumerate(inside) if ranks
    ]  # fmt: skip
    step = numbers.add(columns["step"][rows], exact=True)
    return {"phase": phase, "after": after, "step": step, "all": count, "every": curves.stride(rank),
            "last": int(rank.max()), "bins": kept}  # fmt: skip


def training_of(run: Run, points: int, numbers: Numbers) -> dict[str, Any] | None:
    """The training loss of log lines; None before the first."""
    metrics = run.metrics
    count = len(metrics["step"])
    if not count:
        return None
    rows = thinned(count, points)
    step = numbers.add(metrics["step"][rows], exact=True)
    return {"step": step, "loss": numbers.add(metrics["train_loss"][rows]), "all": count}


def provenance_of(run: Run) -> dict[str, Any]:
    """Where a run comes from: what meta.json says, and its config.yaml as it stands."""
    keys = ("version", "revision", "host", "device", "gpu", "libtorch", "start", "end", "command")
    told = {key: str(run.meta[key]) for key in keys if run.meta.get(key) not in (None, "")}
    return {"directory": str(run.path), **told, "config": read_text(run.path / "config.yaml")}


def run_contents(path: Path, points: int, edges: Sequence[int], numbers: Numbers) -> tuple[dict[str, Any], Run | None]:
    """All of one run; what cannot be read raises, and a run that has not begun has its state alone."""
    state = run_state(path)
    if state == "waiting" and not (path / "run.json").is_file():
        return {"state": state, "config": read_text(path / "config.yaml")}, None
    whole = Run(path)
    whole.config  # noqa: B018 (what fails first names the file)
    run = curves.only_drawn(whole)
    status, task = run.status, run.facts["model"]["task"]
    chance = dict(zip(("loss", "accuracy"), map(_plain, curves.chance(run))))
    bins = curves.rank_bins(run.num_sequences, edges)
    return {
        "state": state, "step": _plain(status.get("step")), "steps": _plain(status.get("steps")),
        "kind": str(run.config["model"].get("kind", "?")), "task": task, "chance": chance,
        "line": run.settings_line(" · "), "result": result_of(run), "settings": settings_of(run),
        "switches": [entry["step"] for entry in run.switches], "events": _events(run),
        "curves": curves_of(run, bins, points, numbers), "training": training_of(run, points, numbers),
        "provenance": provenance_of(run),
        "never": run.num_sequences - curves.num_drawn(run),
    }, run  # fmt: skip


# All runs -------------------------------------------------------------------------------------------------------------


def columns_of(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Settings that differ among the runs that have them, those first that are asked for most."""
    keys = [
        key for key in differing(settings)
        if key == "model.kind" or len({str(setting[key]) for setting in settings if key in setting}) > 1
    ]  # fmt: skip
    return [key for key in FIRST_COLUMNS if key in keys] + [key for key in keys if key not in FIRST_COLUMNS]


def _edges(paths: Sequence[Path], edges: Sequence[int] | None) -> list[int]:
    """Edges of rank bins of all runs: as asked for, else decades up to the largest K."""
    sizes = [1]
    for path in paths:
        try:
            sizes.append(Run(path).num_sequences)
        except (OSError, ValueError):
            continue  # said when the run is read
    bins = curves.rank_bins(max(sizes), edges)
    return [first for first, _ in bins] + [end for _, end in bins[-1:]]


def report_contents(
    arguments: Sequence[PathLike], edges: Sequence[int] | None = None, points: int = POINTS
) -> tuple[dict[str, Any], np.ndarray]:
    """The tree and the numbers of a report over runs, folders of them, or folders of those.

    Raises
    ------
    DataError
        Where there is not a single run to show; its message has the first reason.
    """
    paths, problems = find(arguments)
    numbers, rows, outcomes = Numbers(), [], {}
    if not paths:
        raise DataError(problems[0])
    edges = _edges(paths, edges)
    per_run = 2 * (3 * len(edges) + 1) + 2  # curves of a run: three a bin and the steps, also after a switch; log lines
    points = max(LEAST_POINTS, min(points, MAX_NUMBERS // (per_run * len(paths))))
    for path, name in zip(paths, members.short_names(paths)):
        start, parts = numbers.count, len(numbers.parts)
        try:
            contents, run = run_contents(path, points, edges, numbers)
        except (OSError, ValueError) as error:
            del numbers.parts[parts:]
            numbers.count = start
            problems.append(_reason(path, error))
            continue
        outcomes[path] = _outcome(path, contents)
        rows.append({"name": _text(name), **contents})
        if run is not None and run.origin is not None:
            run.origin.release()
            run.release()
    if not rows:
        raise DataError(problems[0])
    found = [row["settings"] for row in rows if "settings" in row]
    bins = [(first, end) for first, end in zip(edges, edges[1:])]
    kinds = dict.fromkeys(row["kind"] for row in rows if row.get("curves"))
    tree = {
        "runs": rows, "columns": columns_of(found) if found else [], "problems": list(map(_text, problems)),
        "bins": [ALL_RANKS, *map(curves.bin_label, bins)], "points": points, "kinds": list(kinds),
        "thinned": sum(_is_thinned(row, points) for row in rows), "counts": _counts(rows),
        "sweeps": sweep_contents(outcomes, {path: row["name"] for path, row in zip(outcomes, rows)}),
    }  # fmt: skip
    return tree, numbers.joined()


def _reason(path: Path, error: Exception) -> str:
    """One line that begins with the run's directory."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    text = " ".join(text.split())
    return text if str(path) in text else f"{path}: {text}"


def _text(text: str) -> str:
    """What a path holds that is no text, as a mark."""
    return text.encode("utf-8", "replace").decode()


def _is_thinned(row: dict[str, Any], points: int) -> bool:
    """Whether some curve of a run has fewer points than evaluations."""
    lines = [*row.get("curves", ()), *([row["training"]] if row.get("training") else [])]
    return any(line["step"][1] < line["all"] for line in lines)


def _counts(rows: Sequence[dict[str, Any]]) -> str:
    counts = Counter(row["state"].replace("_", " ") for row in rows)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items(), key=lambda item: -item[1]))


# Sweeps ---------------------------------------------------------------------------------------------------------------


def _outcome(path: Path, contents: dict[str, Any]) -> sweeps.Outcome:
    """A run as module sweeps has it; its name is its directory's."""
    result, measures = contents.get("result"), {}
    if result and contents["state"] in sweeps.FINISHED:
        for key, limit in (("loss", "floor"), ("accuracy", "ceiling")):
            value = math.inf if result[key] is None else float(result[key])
            bound = math.nan if result[limit] is None else float(result[limit])
            measures[key] = sweeps.Measure(value, bound, float(contents["chance"][key]))
    values = {key: str(value) for key, value in contents.get("settings", {}).items()}
    return sweeps.Outcome(path.name, values, contents["state"], measures)


def sweep_contents(outcomes: dict[Path, sweeps.Outcome], names: dict[Path, str]) -> list[dict[str, Any]]:
    """Final results against settings: of each sweep, and of the runs that are in none where few settings differ."""
    groups: dict[Path | None, list[Path]] = {}
    for path in outcomes:
        parent = path.resolve().parent
        groups.setdefault(parent if sweeps.manifest(parent).is_file() else None, []).append(path)
    found = []
    for folder, paths in sorted(groups.items(), key=lambda item: item[0] is None):
        manifest = _manifest(folder)
        runs = [outcomes[path]._replace(name=names[path]) for path in paths]
        if folder is not None:
            runs = [run._replace(values=manifest.get(path.name, {})) for path, run in zip(paths, runs)]
        else:
            keys = columns_of([run.values for run in runs if run.values])
            runs = [run._replace(values={key: run.values.get(key, "-") for key in keys}) for run in runs if run.values]
        views = _views(runs, folder is not None)
        if views and any(run.measures for run in runs):
            name = folder.name if folder else "runs outside of sweeps" if len(groups) > 1 else "these runs"
            found.append({"name": _text(name), "counts": sweeps.counts_text(runs), "views": views})
    return found


def _manifest(folder: Path | None) -> dict[str, dict[str, str]]:
    try:
        return {} if folder is None else sweeps.read_manifest(folder)
    except (OSError, ValueError):
        return {}


def _views(runs: Sequence[sweeps.Outcome], planned: bool) -> list[dict[str, Any]]:
    """Results against each setting in turn, learning rates first; means over seeds.

    Runs that were not planned as a sweep have none where they differ in much.
    """
    over = ["seed"] if set(sweeps.varying_keys(runs)) - {"seed"} else []
    axes = sweeps.axes_of(runs, over)
    if not planned and (len(axes) > MAX_LOOSE or any(len(axis.keys) > 1 for axis in axes)):
        return []
    order = sorted(axes, key=lambda axis: (not axis.keys[0].endswith("lr"), axis.numbers() is None, -len(axis.values)))
    return [view for axis in order if (view := _view(runs, axis, [other for other in axes if other is not axis]))]


def _view(runs: Sequence[sweeps.Outcome], x: sweeps.Axis, others: Sequence[sweeps.Axis]) -> dict[str, Any] | None:
    points = sweeps.points_of(runs, [x, *others])
    means = {key: sweeps.means_of(points, key) for key in sweeps.BETTER}
    if not means["loss"]:
        return None
    numbers = x.numbers()
    places = numbers or list(range(len(x.values)))
    lines = sorted({place[1:] for place in points})
    best, warnings = {}, {}
    for key in sweeps.BETTER:
        place = sweeps.best_place(means[key], key)
        words = [sweeps.setting_text(axis, index) for axis, index in zip([x, *others], place)]
        best[key] = {"x": places[place[0]], "value": _plain(means[key][place].value), "text": ", ".join(words)}
        line = [found[0] for found in means[key] if found[1:] == place[1:]]
        warning = sweeps.edge_warning(x, line, place[0]) if len(x.keys) == 1 else None
        if warning:
            warnings.setdefault(warning, []).append(key)
    drawn = [_line(points, means, line, others, places) for line in lines]
    return {
        "key": ", ".join(x.keys), "numeric": numbers is not None, "log": bool(numbers) and _spans_decades(numbers),
        "places": places, "texts": [", ".join(value) for value in x.values], "best": best,
        "warnings": [f"{' and '.join(keys)}: {text}" for text, keys in warnings.items()],
        "lines": drawn if len(drawn) <= MAX_LINES else [_best_line(drawn)],
    }  # fmt: skip


def _spans_decades(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and max(numbers) >= 10 * min(numbers)


def _line(
    points: sweeps.Points, means: dict, line: tuple[int, ...], others: Sequence[sweeps.Axis], places: Sequence[float]
) -> dict[str, Any]:  # fmt: skip
    """The points of one combination of other settings: means, and each run."""
    here = [place for place in points if place[1:] == line]
    dots = [(places[place[0]], run) for place in here for run in points[place]]
    shown = {
        key: {"x": [places[place[0]] for place in here if place in means[key]],
              "mean": [_plain(means[key][place].value) for place in here if place in means[key]],
              "limit": [_plain(means[key][place].limit) for place in here if place in means[key]]}
        for key in means
    }  # fmt: skip
    return {
        "label": ", ".join(sweeps.setting_text(axis, index) for axis, index in zip(others, line)), **shown,
        "dots": [{"x": x, "run": run.name, "state": run.state, **{k: _plain(m.value) for k, m in run.measures.items()}}
                 for x, run in dots],
    }  # fmt: skip


def _best_line(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lines too many to tell apart, as one: the best mean of any at each place."""
    result: dict[str, Any] = {"label": f"the best of {len(lines)} combinations of other settings"}
    for key, better in sweeps.BETTER.items():
        at: dict[float, tuple[float, Any]] = {}
        for line in lines:
            for x, mean, limit in zip(line[key]["x"], line[key]["mean"], line[key]["limit"]):
                if isinstance(mean, float):
                    at[x] = better(at.get(x, (mean, limit)), (mean, limit), key=lambda pair: pair[0])
        order = sorted(at)
        result[key] = {"x": order, "mean": [at[x][0] for x in order], "limit": [at[x][1] for x in order]}
    return {**result, "dots": [dot for line in lines for dot in line["dots"]]}
