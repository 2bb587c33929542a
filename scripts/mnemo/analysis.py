"""What figures of many runs are made of: loss and accuracy against presentations, of ranges of true ranks, by model.

    wanted = Wanted(selections=((0, 10),), edges=(0, 5, 10, 100), further=1000)
    run = open_source("cache/zipf_small/lr=0.001", Path("cache/processed_data"))
    data = processed(run, wanted, Path("cache/processed_data"))    # small, and kept there
    model, = models({run: data})
    curve(model, (0, 10), "loss").y                                # (T,) mean over ranks and seeds

A model is one experiment with the runs of its seeds. Presentations, as loss and accuracy, are means over the ranks of a
bin that were scored. Letters: T evaluations, E bins, R single ranks, N seeds.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemo import curves, files, kept, members, runs, sweeps
from mnemo.curves import Bin
from mnemo.errors import DataError
from mnemo.files import PathLike
from mnemo.records import convert, pickles
from mnemo.runs import Run

RECORD_ENDINGS = (".pkl", ".pt")
KEYS = ("loss", "accuracy")
MAX_LABEL_SETTINGS = 4  # a model that differs in more is called by its directory


class Wanted(NamedTuple):
    """What is taken of each run, and of which phase.

    selections are bins, and their ranks are taken singly too; edges are those of rank ranges, and beyond the last of
    them every range has `further` ranks. At most `rows` evaluations are kept of a bin, and `points` of a single rank.
    """

    selections: tuple[Bin, ...]
    edges: tuple[int, ...]
    further: int
    phase: int = 0
    rows: int = 400
    points: int = 60

    def ranges(self, num_sequences: int) -> list[Bin]:
        """Rank ranges with a rank below K; the last one may reach beyond it."""
        edges = [*self.edges]
        while edges[-1] < num_sequences:
            edges.append(edges[-1] + self.further)
        return [(first, end) for first, end in zip(edges, edges[1:]) if first < num_sequences]


# Sources --------------------------------------------------------------------------------------------------------------


def sources_in(path: PathLike) -> list[Path]:
    """Run directories and notebook pickles: the path itself, or those in a folder, as sweeps and exported trees lie.

    Raises FileNotFoundError where there is none. Pickles inside a run directory repeat it and are left out.
    """
    path = Path(path)
    if path.is_file() or (path / "config.yaml").is_file():
        return [path]
    visible = sorted(entry for entry in path.glob("*") if not entry.name.startswith("."))
    found = []
    for entry in visible:
        if (entry / "config.yaml").is_file():
            found.append(entry)
        else:
            found += filter(is_record, [entry] if entry.is_file() else sorted(entry.glob("*")))
    if not found:
        reason = "holds no run (no config.yaml and no .pkl in it or one level below)"
        raise FileNotFoundError(2, reason if path.exists() else "no such run directory or file", str(path))
    return found


def is_record(path: Path) -> bool:
    """Whether a file is named as a notebook record, and not as the sequences beside one."""
    return path.suffix in RECORD_ENDINGS and not path.stem.endswith("_sequences") and path.is_file()


def open_source(path: PathLike, folder: Path, fresh: bool = False) -> Run:
    """The run in a directory, or in a notebook record, which becomes a run directory in `folder` first.

    Raises as `runs.open_run` does; DataError where a record cannot be read. Nothing in a record is run.
    """
    path = Path(path)
    if not path.is_file():
        return runs.open_run(path)
    beside = pickles.sequences_file(path)
    taken = {"record": path, **({"sequences": beside} if beside else {})}
    target = folder / "records" / _place(path) / path.stem
    salt = _code(convert, pickles)
    imported = kept.folder(target, taken, salt, lambda new: convert.import_record(path, new), fresh)
    return Run(path, Run(imported))


def _place(path: Path) -> str:
    """A name for what is kept of a path: readable, and its own."""
    digest = hashlib.blake2b(str(path.resolve()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.=,-]', '_', path.name)[:60]}-{digest}"


def _code(*modules: Any) -> str:
    return kept.code_digest([__file__, *(module.__file__ for module in (files, runs, curves, *modules))])


# Processed data -------------------------------------------------------------------------------------------------------


def processed(run: Run, wanted: Wanted, folder: Path, fresh: bool = False) -> dict[str, np.ndarray]:
    """What `process` makes of a run, kept in a folder for as long as the run's files stay what they are."""
    base = run.origin.path if run.origin else run.path
    sets = [name for name in (f"phase_{wanted.phase}", "train") if (base / "eval" / name / "step.npy").is_file()]
    names = ["run.json", "switches.json"]
    names += sorted(f"theory/{file.name}" for file in base.glob("theory/phase_*.npy"))
    names += [f"eval/{name}/{column}.npy" for name in sets[:1] for column in runs.SET_COLUMNS if column != "last_seen"]
    taken = {name: base / name for name in names}
    place = folder / f"{_place(run.path)}.phase_{wanted.phase}.npz"
    return kept.arrays(place, taken, f"{_code()} {wanted}", lambda: process(run, wanted), fresh)


def process(run: Run, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays of a run that figures need.

    Returns
    -------
    dict
        bins (E, 2); scored (E,): how many ranks of each were scored; floor, ceiling (E,): Bayes limits, NaN where not
        known; step (T,), presentations, loss, accuracy (T, E): means over a bin, NaN where no rank of it was scored.
        The same of single ranks, with `rank_` before the name and (R,), (T', R): rank_rank, rank_floor, rank_ceiling,
        rank_step, rank_presentations, rank_loss, rank_accuracy. evaluations (1,): how many there were of the phase.

    Raises
    ------
    DataError
        Where nothing of the phase has been evaluated.
    """
    columns = curves.phase_columns(curves.only_drawn(run).sets, wanted.phase)
    rows = np.flatnonzero(columns["phase"] == wanted.phase) if columns else []
    if len(rows) == 0:
        known = len(run.switches) + 1
        what = "nothing has been evaluated yet" if wanted.phase < known else f"has {known} phase(s), from 0 on"
        raise DataError(f"{run.path}: {what} (phase {wanted.phase})")
    rows = rows[curves.last_rows(columns["step"][rows])]
    rank = columns["rank"]
    bins = [*dict.fromkeys([*wanted.selections, *wanted.ranges(run.num_sequences)])]
    single = np.unique(np.concatenate([np.arange(*ranks) for ranks in wanted.selections]))
    single = np.intersect1d(single, rank)
    places = np.searchsorted(rank, single)
    limits = curves.limits(run.theory, rank, wanted.phase)
    result = {"evaluations": np.array([len(rows)]), "bins": np.array(bins), "rank_rank": single}
    result["scored"] = curves.bin_sizes(rank, bins)
    for name, limit in zip(("floor", "ceiling"), limits):
        limit = np.full(len(rank), np.nan) if limit is None else limit
        result[name], result[f"rank_{name}"] = curves.bin_mean(limit, rank, bins), limit[places]
    of_bins, of_ranks = rows[spread(len(rows), wanted.rows)], rows[spread(len(rows), wanted.points)]
    result["step"], result["rank_step"] = columns["step"][of_bins], columns["step"][of_ranks]
    for name in ("presentations", *KEYS):
        result[name] = _bin_means(columns[name], of_bins, rank, bins)
        result[f"rank_{name}"] = np.asarray(columns[name][np.ix_(of_ranks, places)])
    for view in filter(None, (run, run.origin)):
        view.release()
    return result


def spread(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` rows: all, or the first, the last, and others evenly on a log axis."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.rint(np.geomspace(1, count, most)).astype(np.int64)) - 1


def _bin_means(values: np.ndarray, rows: np.ndarray, rank: np.ndarray, bins: Sequence[Bin]) -> np.ndarray:
    """Means over the ranks of bins at some rows, (T, E), bin by bin: a large mapped array is never copied whole."""
    taken = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
    result = np.full((len(rows), len(bins)), np.nan)
    for index, ranks in enumerate(bins):
        inside = curves.bin_columns(rank, ranks)
        if isinstance(inside, slice) or len(inside):
            plain = isinstance(inside, slice) or isinstance(taken, slice)
            with np.errstate(invalid="ignore"):
                part = values[taken, inside] if plain else values[np.ix_(taken, inside)]
                result[:, index] = part.mean(axis=1, dtype=np.float64)
    return result


# Models ---------------------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """One experiment: what figures call it, its runs (a seed each), and what was processed of each of them."""

    label: str
    member: members.Member
    data: list[dict[str, np.ndarray]]

    @property
    def num_sequences(self) -> int:
        """K."""
        return self.member.config["data"]["num_sequences"]


class Curve(NamedTuple):
    """A line of a figure: of one model, mean over the ranks of a bin and over seeds, (T,) each.

    low and high: 95 % confidence interval of the mean over seeds, NaN where there is one.
    limit: Bayes floor or ceiling.
    """

    model: str
    ranks: Bin
    scored: int
    seeds: int
    step: np.ndarray
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    limit: float


def models(data: Mapping[Run, dict[str, np.ndarray]], experiments: Mapping[Path, str] | None = None) -> list[Model]:
    """Runs as models, in the order given; `experiments` says of each path which experiment it is of."""
    found = members.group(list(zip(members.short_names([run.path for run in data]), data)))
    of = experiments or {}
    several = len(set(of.values())) > 1
    result = []
    for member, label in zip(found, _labels(found)):
        prefix = f"{of[member.runs[0].path]}: " if several else ""
        result.append(Model(prefix + label, member, [data[run] for run in member.runs]))
    return result


def _labels(found: Sequence[members.Member]) -> list[str]:
    """What tells models apart: their settings where few do, else the names of their directories."""
    values = list(members.columns(found).values())
    keys = list(values[0]) if values else []
    short = sweeps.short_keys(keys)
    texts = [", ".join(f"{short[key]} {'-' if of[key] in (None, '') else of[key]}" for key in keys) for of in values]
    texts = [f"{text} ({member.state})" if member.state else text for text, member in zip(texts, found)]
    if not 0 < len(keys) <= MAX_LABEL_SETTINGS or len(set(texts)) < len(found):
        return [member.name for member in found]
    return texts


def setting(model: Model, key: str) -> Any:
    """A setting by its dotted name; None where the model has none of this name."""
    return members.settings(model.member).get(key)


def curve(model: Model, ranks: Bin, key: str) -> Curve | None:
    """Loss or accuracy of a bin against presentations; None where none of its ranks was scored, or ever presented.

    Seeds meet at the steps at which all of them were evaluated. Rows without a presentation are left out.
    """
    places = [np.flatnonzero((entry["bins"] == ranks).all(axis=1)) for entry in model.data]
    if any(len(place) == 0 or entry["scored"][place[0]] == 0 for place, entry in zip(places, model.data)):
        return None
    step = functools.reduce(np.intersect1d, [entry["step"] for entry in model.data])
    rows = [np.searchsorted(entry["step"], step) for entry in model.data]

    def seeds(name: str) -> np.ndarray:
        return np.stack([entry[name][at, place[0]] for entry, at, place in zip(model.data, rows, places)])

    x, (y, low, high) = seeds("presentations").mean(axis=0), curves.mean_and_band(seeds(key))
    shown = (x > 0) & np.isfinite(y)
    if not shown.any():
        return None
    limit = float(np.mean([entry[LIMIT[key]][place[0]] for entry, place in zip(model.data, places)]))
    scored = int(model.data[0]["scored"][places[0][0]])
    parts = (part[shown] for part in (step, x, y, low, high))
    return Curve(model.label, ranks, scored, len(model.data), *parts, limit)


LIMIT = {"loss": "floor", "accuracy": "ceiling"}


def points(model: Model, selections: Sequence[Bin], key: str) -> dict[str, np.ndarray]:
    """Every single rank of some bins at every evaluation that is kept, as columns of equal length.

    run, step, rank, presentations, loss or accuracy, bayes_floor or bayes_ceiling; those never presented are left out.
    """
    parts: dict[str, list] = {name: [] for name in ("run", "step", "rank", "presentations", key, f"bayes_{LIMIT[key]}")}
    for run, entry in zip(model.member.runs, model.data):
        rank = entry["rank_rank"]
        inside = np.zeros(len(rank), bool)
        for first, end in selections:
            inside |= (rank >= first) & (rank < end)
        shape = (len(entry["rank_step"]), int(inside.sum()))
        x, y = entry["rank_presentations"][:, inside], entry[f"rank_{key}"][:, inside]
        shown = (x > 0) & np.isfinite(y)
        columns = (np.full(shape, str(run.path), object), np.broadcast_to(entry["rank_step"][:, None], shape),
                   np.broadcast_to(rank[inside], shape), x, y,
                   np.broadcast_to(entry[f"rank_{LIMIT[key]}"][inside], shape))  # fmt: skip
        for name, column in zip(parts, columns):
            parts[name].append(column[shown])
    return {name: np.concatenate(columns) for name, columns in parts.items()}
