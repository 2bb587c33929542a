"""What the curves of a run mean, in one place: rank bins, rows before and after events, phases.

Works on the arrays that `runs.read_set` returns. A rank is always a true rank (0 = most frequent sequence), never a
row of a subset. Letters: T evaluations, S evaluated ranks, K sequences, E bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mnemo.errors import DataError
from mnemo.runs import Columns, Lazy, Run, drawn_ranks, rank_limits

MAX_WEIGHTS = 1 << 22  # elements of bootstrap weights held at once
Bin = tuple  # (first rank, one past the last rank)


def rank_bins(num_sequences: int, edges: Sequence[int] | None = None) -> list[Bin]:
    """Half-open bins of true ranks, cut to 0..K-1; empty ones are left out.

    Parameters
    ----------
    num_sequences
        K.
    edges
        Rising ranks; None means 0, 10, 100, 1000, ... up to K.
    """
    if edges is None:
        edges = [0, 10]
        while edges[-1] < num_sequences:
            edges.append(edges[-1] * 10)
    if len(edges) < 2 or edges[0] < 0 or min(np.diff(edges)) <= 0:
        raise DataError(f"bin edges must be at least two rising ranks >= 0, got {list(edges)}")
    starts = [edge for edge in edges[:-1] if edge < num_sequences]
    return [(start, min(end, num_sequences)) for start, end in zip(starts, edges[1:])]


def parse_edges(text: str, most: int | None = None) -> list[int]:
    """`0,10,100` as edges of at most `most` bins; DataError says what is wrong."""
    try:
        edges = [int(word) for word in text.split(",")]
    except ValueError:
        raise DataError(f"bin edges must be ranks such as 0,10,100, got {text!r}") from None
    count = len(rank_bins(max(edges) + 1, edges))
    if most is not None and count > most:
        raise DataError(f"at most {most} bins can be told apart, got {count}")
    return edges


def bin_label(ranks: Bin) -> str:
    """`ranks 0-9` or `rank 0`."""
    first, end = ranks
    return f"rank {first}" if end - first == 1 else f"ranks {first}-{end - 1}"


def bin_columns(rank: np.ndarray, ranks: Bin) -> np.ndarray | slice:
    """Columns whose true rank lies in a bin: a slice (no copy of a mapped file) where they are neighbours."""
    columns = np.flatnonzero((rank >= ranks[0]) & (rank < ranks[1]))
    if len(columns) and columns[-1] - columns[0] + 1 == len(columns):
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns


def bin_sizes(rank: np.ndarray, bins: Sequence[Bin]) -> np.ndarray:
    """How many of some ranks lie in each bin, (E,) int64."""
    return np.array([((rank >= first) & (rank < end)).sum() for first, end in bins], np.int64)


def bins_with(rank: np.ndarray, bins: Sequence[Bin]) -> list[Bin]:
    """The bins that hold one of some ranks."""
    return [ranks for ranks, size in zip(bins, bin_sizes(rank, bins)) if size]


def bin_mean(values: np.ndarray, rank: np.ndarray, bins: Sequence[Bin]) -> np.ndarray:
    """Mean over the evaluated ranks of each bin: (T, S) to (T, E), or (S,) to (E,); NaN where a bin holds none."""
    result = np.full((*values.shape[:-1], len(bins)), np.nan)
    for index, ranks in enumerate(bins):
        inside = values[..., bin_columns(rank, ranks)]
        if inside.shape[-1]:
            result[..., index] = inside.mean(axis=-1, dtype=np.float64)
    return result


def select_ranks(columns: Columns, rank: np.ndarray) -> Columns:
    """A set cut to the ranks that `rank` holds too, so that two sets can be compared over the same ranks."""
    keep = np.flatnonzero(np.isin(columns["rank"], rank))
    if len(keep) == len(columns["rank"]):
        return columns

    def cut(name: str) -> np.ndarray:
        array = columns[name]
        return array[..., keep] if name == "rank" or array.ndim > 1 else array

    return Lazy({name: partial(cut, name) for name in columns})


def select_rows(columns: Columns, rows: slice | np.ndarray) -> Columns:
    """A set cut to some of its evaluations."""
    return Lazy({name: lambda n=name: columns[n] if n == "rank" else columns[n][rows] for name in columns})


def only_drawn(run: Run) -> Run:
    """A run without the ranks of probability 0, which are never drawn: there is nothing to learn of them."""

    def drawn(name: str) -> Columns:
        return select_ranks(run.sets[name], run.sets[name]["rank"][run.scored(name)])

    return run.replace(sets=Lazy({name: partial(drawn, name) for name in run.sets}))


def num_drawn(run: Run) -> int:
    """How many of the K sequences are ever drawn."""
    return int(drawn_ranks(run.theory, np.arange(run.num_sequences)).sum())


def current_sequences(sets: Mapping[str, Columns]) -> Columns | None:
    """The validation sets `phase_0`, `phase_1`, ... joined, each while it is current; None where they do not fit.

    Unlike `train` it holds every rank that the validation sets hold.
    """
    parts = []
    for phase in range(len(sets)):
        columns = sets.get(f"phase_{phase}")
        if columns is None:
            break
        parts.append(select_rows(columns, np.flatnonzero(columns["phase"] == phase)))
    if not parts or any(not np.array_equal(part["rank"], parts[0]["rank"]) for part in parts):
        return None

    def joined(name: str) -> np.ndarray:
        return parts[0][name] if name == "rank" else np.concatenate([part[name] for part in parts])

    return Lazy({name: partial(joined, name) for name in parts[0]})


def rows_before(step: np.ndarray, at: int) -> slice:
    """Rows that saw the run before the events at step `at`: all earlier ones, and the first row of that step."""
    first = int(np.searchsorted(step, at, "left"))
    return slice(0, first + int(first < len(step) and step[first] == at))


def rows_after(step: np.ndarray, at: int) -> slice:
    """Rows that saw the run after the events at step `at`: the last row of that step, and all later ones.

    A step with one row had no event that changes data or weights: that row counts as before and as after.
    """
    end = int(np.searchsorted(step, at, "right"))
    return slice(end - int(end > 0 and step[end - 1] == at), len(step))


def last_rows(step: np.ndarray) -> np.ndarray:
    """Index of the last row of every step (the one after the events), rising."""
    return np.flatnonzero(np.append(step[1:] != step[:-1], True)) if len(step) else np.empty(0, np.int64)


def phase_segments(phase: np.ndarray) -> list[tuple[int, slice]]:
    """Runs of rows with one phase, in order: [(phase, rows), ...]. Curves of the `train` set break between them."""
    if len(phase) == 0:
        return []
    starts = [0, *(np.flatnonzero(np.diff(phase)) + 1).tolist()]
    return [(int(phase[start]), slice(start, end)) for start, end in zip(starts, [*starts[1:], len(phase)])]


def stride(rank: np.ndarray) -> int | None:
    """The constant distance between evaluated ranks; 1 for fewer than two; None where it varies."""
    distances = np.unique(np.diff(rank))
    return 1 if len(distances) == 0 else int(distances[0]) if len(distances) == 1 else None


# Phases ---------------------------------------------------------------------------------------------------------------


def phase_columns(sets: Mapping[str, Columns], phase: int, ranks: np.ndarray | None = None) -> Columns | None:
    """The sequences of one phase, as often as they were scored, in its own phase and after it; cut to `ranks`.

    That is set `phase_<k>`; where there is none, the rows of `train` while the phase was current; None without either.
    """
    columns = sets.get(f"phase_{phase}")
    if columns is None and "train" in sets:
        columns = select_rows(sets["train"], np.flatnonzero(sets["train"]["phase"] == phase))
    if columns is not None and ranks is not None:
        columns = select_ranks(columns, ranks)
    return columns if columns is not None and len(columns["step"]) and len(columns["rank"]) else None


def phase_starts(switches: Sequence[dict[str, int]]) -> dict[int, int]:
    """{phase: the step at which it began}."""
    return {0: 0, **{entry["phase"]: entry["step"] for entry in switches}}


def moments(
    columns: Columns, phase: int, switches: Sequence[dict[str, int]]
) -> tuple[int | None, int | None, int | None]:
    """Rows of `phase_columns` that tell its story: (start, before, end), None where there is no such row.

    start
        The first row of the phase: at step 0, or right after the switch that began it.
    before
        The last row before the switch that ended it; without one the last row.
    end
        The last row of the run. `train` has none after a switch: other sequences are scored then.
    """
    at = phase_starts(switches)
    step, last = columns["step"], len(columns["step"]) - 1
    start = rows_after(step, at.get(phase, 0)).start
    before = rows_before(step, at[phase + 1]).stop - 1 if phase + 1 in at else last
    if not 0 <= start <= before:
        start = before = None
    return start, before, last if columns["phase"][last] == len(switches) else None


def phases(run: Run) -> list[int]:
    """Phases whose sequences were scored; DataError when none was."""
    found = [phase for phase in range(len(run.switches) + 1) if phase_columns(run.sets, phase) is not None]
    if not found:
        raise DataError(f"{run.path}: nothing has been evaluated yet (no eval/phase_0, no eval/train)")
    return found


class BinCurves(NamedTuple):
    """Means over rank bins while a phase was current: a run's, or its seeds'.

    step (T,); presentations, accuracy (T, E); low, high (T, E): the ends of the band about a mean over seeds, NaN of
    one; ceiling (E,).
    """

    step: np.ndarray
    presentations: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ceiling: np.ndarray


def bin_curves(run: Run, ranks: dict[int, np.ndarray], bins: dict[int, Sequence[Bin]]) -> dict[int, BinCurves]:
    """{phase: curves} of a run, over some ranks of each phase; NaN for a ceiling that is not known."""
    result = {}
    for phase in phases(run):
        columns = phase_columns(run.sets, phase, ranks[phase])
        if columns is not None:
            rank, rows = columns["rank"], np.flatnonzero(columns["phase"] == phase)
            seen, accuracy = (bin_mean(columns[key][rows], rank, bins[phase]) for key in ("presentations", "accuracy"))
            ceiling = limits(run.theory, rank, phase)[1]
            ceiling = bin_mean(np.full(len(rank), np.nan) if ceiling is None else ceiling, rank, bins[phase])
            none = np.full_like(accuracy, np.nan)
            result[phase] = BinCurves(columns["step"][rows], seen, accuracy, none, none, ceiling)
    return result


def mean_curves(seeds: Sequence[BinCurves]) -> BinCurves:
    """The mean over seeds with its band, see `mean_and_band`, at the steps at which all of them were evaluated."""
    steps = [seed.step for seed in seeds]
    rows: list[Any] = [slice(None)] * len(seeds)
    if any(not np.array_equal(step, steps[0]) for step in steps):
        common = set.intersection(*(set(step.tolist()) for step in steps))
        rows = [[row for row in last_rows(step) if int(step[row]) in common] for step in steps]
    band = mean_and_band(np.array([seed.accuracy[row] for seed, row in zip(seeds, rows)]))
    presentations = np.mean([seed.presentations[row] for seed, row in zip(seeds, rows)], axis=0)
    ceiling = np.mean([seed.ceiling for seed in seeds], axis=0)
    return BinCurves(steps[0][rows[0]], presentations, *band, ceiling)


def mean_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, (N, ...) to (...), and the standard deviation (of N - 1) of one seed, NaN where N is 1."""
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0)
    return mean, values.std(axis=0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)


def limits(theory: dict[int, dict], rank: np.ndarray, phase: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Bayes floor and ceiling of ranks in a phase, (S,) each; (None, None) where theory says nothing about them."""
    return rank_limits(theory.get(phase, {}), rank) or (None, None)


def guess_error(run: Run, rank: np.ndarray, bins: Sequence[Bin]) -> np.ndarray:
    """Standard error of the accuracy of guesses over the ranks of each bin, (E,): sqrt(c (1 - c) / guesses).

    c is the accuracy of one guess. A guess is made for each predicted position of each sequence.
    """
    one = chance(run)[1]
    with np.errstate(divide="ignore"):
        return np.sqrt(one * (1 - one) / (bin_sizes(rank, bins) * predictions(run)))


def predictions(run: Run) -> int:
    """Predictions a sequence: L - 1, or L for a model that predicts bit 1 too."""
    return run.config["data"]["length"] - run.facts["model"]["first_position"]


def names_sequences(facts: dict[str, Any]) -> bool:
    """Whether a model says which sequence it sees, and not which bit follows."""
    return facts["model"]["task"] == "sequences"


def chance(run: Run) -> tuple[float, float]:
    """Loss (nats) and accuracy of a guess."""
    found = run.facts["chance"]
    return found["loss"], found["accuracy"]


# Presentations to a threshold -----------------------------------------------------------------------------------------


def parse_threshold(text: str) -> tuple[bool, float]:
    """`ceiling:0.9` as (True, .9): a share of the way from chance to the ceiling; `0.9` as (False, .9): an accuracy."""
    relative = text.startswith("ceiling:")
    try:
        value = float(text[len("ceiling:") :] if relative else text)
    except ValueError:
        value = np.nan
    if not 0.0 < value <= 1.0:
        raise DataError(f"a threshold is ceiling:SHARE or an accuracy, in (0, 1], got {text!r}")
    return relative, value


def target_accuracy(
    threshold: tuple[bool, float], ceiling: np.ndarray | None, size: int, chance: float = 0.5
) -> np.ndarray:
    """Accuracy at which each rank counts as learned, (S,): chance + share (ceiling - chance), or one number for all."""
    relative, value = threshold
    if not relative:
        return np.full(size, value)
    return np.full(size, np.nan) if ceiling is None else chance + value * (ceiling - chance)


def presentations_to(
    accuracy: np.ndarray, presentations: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Presentations at the first evaluation whose mean accuracy reaches the mean target; inf where none does.

    Not interpolated: the true number lies between the evaluation before (`presentations_before`) and this one, so it is
    an upper bound. inf says that the threshold lies beyond the last evaluation (censored), never that it cannot be
    reached.

    Parameters
    ----------
    accuracy, presentations
        (T, S), rows of one phase while it is current.
    target
        (S,) from `target_accuracy`.
    weights
        (S, B): B means over the ranks, one a column; columns sum to 1. None takes each rank for itself.

    Returns
    -------
    np.ndarray
        (B,), or (S,) without weights.
    """
    if weights is not None:
        accuracy, presentations, target = accuracy @ weights, presentations @ weights, target @ weights
    reached = accuracy >= target - 1e-9  # a mean of equal numbers may round below them
    if len(reached) == 0:
        return np.full(np.shape(target), np.inf)
    first = reached.argmax(axis=0)
    columns = np.arange(reached.shape[1])
    return np.where(reached[first, columns], presentations[first, columns], np.inf)


def presentations_before(presentations: np.ndarray, reached: float) -> float:
    """Presentations at the evaluation before the one that reached a threshold, from those of all evaluations.

    0 where the first one did; those of the last one where none did (`reached` is inf).
    """
    return float(presentations[presentations < reached].max(initial=0.0))


def resampling(size: int, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap weights (S, B) for `presentations_to`: column b holds how often each of S ranks was drawn, over S."""
    drawn = generator.integers(0, size, (replicates, size))
    drawn += size * np.arange(replicates)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=replicates * size).reshape(replicates, size).T / size


def bootstrap_presentations(
    accuracy: np.ndarray, presentations: np.ndarray, target: np.ndarray, replicates: int, generator: np.random.Generator
) -> tuple[float, float, np.ndarray]:
    """`presentations_before` and `presentations_to` of the mean over S ranks, and of `replicates` means, resampled."""
    accuracy, presentations = accuracy.astype(np.float64), presentations.astype(np.float64)
    size = len(target)
    mean = np.full((size, 1), 1 / size)
    point = presentations_to(accuracy, presentations, target, mean)[0]
    before = presentations_before(presentations @ mean, point)
    block = max(1, MAX_WEIGHTS // size)
    counts = [min(block, replicates - begin) for begin in range(0, replicates, block)]
    drawn = (resampling(size, count, generator) for count in counts)
    return (
        before,
        point,
        np.concatenate([presentations_to(accuracy, presentations, target, weights) for weights in drawn]),
    )


def median_over_seeds(values: np.ndarray, resampled: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Median over seeds with its 95 % bootstrap interval over ranks and seeds: [median, low, high].

    Censored values (inf) take part as what they are, larger than all others: where most seeds are censored so is the
    median. NaN (a ratio of two censored numbers) makes the whole unknown.

    Parameters
    ----------
    values
        (N,) one a seed.
    resampled
        (N, B) the same with resampled ranks; each replicate then draws N seeds with replacement.
    """
    seeds, replicates = resampled.shape
    drawn = resampled[generator.integers(0, seeds, (seeds, replicates)), np.arange(replicates)]
    with np.errstate(invalid="ignore"):
        medians = np.median(drawn, axis=0)
        low, high = np.quantile(medians, 0.025, method="lower"), np.quantile(medians, 0.975, method="higher")
        return np.array([np.median(values), low, high])


# Seeds ----------------------------------------------------------------------------------------------------------------

_STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # of 1 to 10 degrees of freedom


def student_95(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: how many standard errors a 95 % interval of a mean reaches to either side.

    From 11 degrees on by the first terms of the expansion about the normal quantile (Abramowitz and Stegun 26.7.5).
    """
    if degrees <= len(_STUDENT_95):
        return _STUDENT_95[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def mean_and_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and the ends of its 95 % confidence interval, of normal errors: (N, ...) to (...) each.

    NaN for the ends where there is one seed.
    """
    with np.errstate(invalid="ignore"):
        mean, spread = mean_and_spread(values)
        if len(values) < 2:
            return mean, spread, spread
        reach = student_95(len(values) - 1) * spread / np.sqrt(len(values))
    return mean, mean - reach, mean + reach


# What is remembered of a presentation ---------------------------------------------------------------------------------


def age_edges(longest: int) -> np.ndarray:
    """Edges of bins of ages: 0, 1, 2-3, 4-7, ... up to `longest`."""
    return np.concatenate([[0], 2 ** np.arange(int(longest).bit_length() + 1)])


def forgetting_clock(
    columns: Columns, rows: np.ndarray, counts: Sequence[Bin], ages: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss against the age of the last presentation, for sequences presented about equally often.

    The age of a sequence in an evaluation at step n is n - last_seen: the updates made since the one that drew it, 0
    where the last one did. Each (evaluation, rank) is a score; scores are averaged by age and by presentations so far.

    Parameters
    ----------
    columns
        A set with last_seen, presentations, loss (T, S).
    rows
        Evaluations that count, (n,).
    counts
        Half-open bins of presentations so far.
    ages
        Rising edges of bins of ages, from `age_edges`.

    Returns
    -------
    tuple
        Mean loss (E, A), mean age (E, A) of E bins of presentations and A of ages, NaN where there is no score; the
        number of scores (E, A).
    """
    step, seen = columns["step"][rows][:, None], columns["last_seen"][rows]
    presentations, loss = columns["presentations"][rows], columns["loss"][rows].astype(np.float64)
    age = step - seen
    place = np.searchsorted(ages, age, "right") - 1
    shape = len(counts), len(ages) - 1
    sums, age_sums, number = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
    for index, (low, high) in enumerate(counts):
        inside = (seen >= 0) & (presentations >= low) & (presentations < high) & (place < shape[1]) & np.isfinite(loss)
        number[index] = np.bincount(place[inside], minlength=shape[1])
        sums[index] = np.bincount(place[inside], loss[inside], shape[1])
        age_sums[index] = np.bincount(place[inside], age[inside], shape[1])
    with np.errstate(invalid="ignore"):
        return sums / number, age_sums / number, number


# How far learning gets ------------------------------------------------------------------------------------------------


def largest_learned_rank(rank: np.ndarray, margin: np.ndarray, half: int = 50) -> int:
    """The largest rank r with a positive mean margin over the evaluated ranks r - half .. r + half; -1 without one.

    Parameters
    ----------
    rank
        (S,) rising.
    margin
        (S,) accuracy minus what counts as learned.
    """
    total = np.concatenate([[0.0], np.cumsum(margin, dtype=np.float64)])
    first, end = np.searchsorted(rank, rank - half, "left"), np.searchsorted(rank, rank + half, "right")
    learned = np.flatnonzero((total[end] - total[first]) / (end - first) > 0)
    return int(rank[learned[-1]]) if len(learned) else -1


def block_means(values: np.ndarray, size: int) -> np.ndarray:
    """Means of neighbours, `size` at a time, (N,) to (N // size,); what is left over at the end is left out."""
    whole = len(values) // size
    return np.asarray(values[: whole * size], np.float64).reshape(whole, size).mean(axis=1)


def rolling_mean(values: np.ndarray, size: int) -> np.ndarray:
    """Mean of each value and the up to size - 1 before it, (N,)."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    first = np.maximum(end - size, 0)
    return (total[end] - total[first]) / (end - first)


# Switch, swap, memory, distance ---------------------------------------------------------------------------------------


def switch_drop(before: np.ndarray, start: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a switch costs and how much of it comes back.

    Accuracies of the old sequences right before the switch, of the new ones right after it, and of the new ones at the
    end of their phase: drop = before - start; recovery = (after - start) / drop, NaN where nothing was lost.
    """
    return before - start, share(after - start, before - start)


def swap_recovery(before: np.ndarray, unswapped: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """Share of the lost accuracy that a swap of weights brings back: (swapped - unswapped) / (before - unswapped)."""
    return share(swapped - unswapped, before - unswapped)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; NaN where the whole is not positive."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def stored_bits(loss: np.ndarray, predictions: int, num_sequences: int) -> np.ndarray:
    """Information stored about K sequences, in bits, beside a guess:

        bits = sum over the K sequences of (ln 2 - loss) * predictions / ln 2

    with a guess's loss ln 2 a prediction. A sequence that is answered confidently and wrongly counts as negative.

    Parameters
    ----------
    loss
        (..., S) mean loss a prediction, in nats, of the evaluated ranks; where S < K their mean stands for all.
    predictions
        L - 1, or L where bit 1 is predicted too.
    """
    return (np.log(2.0) - np.mean(loss, axis=-1, dtype=np.float64)) * predictions / np.log(2.0) * num_sequences


def curve_distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Distance between two curves of accuracy against presentations, and the decades it was taken over.

    Mean absolute difference over log presentations, where both curves are: from the later first presentation to the
    earlier last one. Both are straight lines between evaluations on that axis. (NaN, 0) without a common stretch.

    Parameters
    ----------
    a, b
        (presentations (T,), accuracy (T,)); points with no presentation yet are left out.
    """
    curves = []
    for presentations, accuracy in (a, b):
        seen = (presentations > 0) & np.isfinite(accuracy)
        curves.append((np.log10(presentations[seen]), accuracy[seen]))
    if min(len(x) for x, _ in curves) == 0:
        return np.nan, 0.0
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if not low < high:
        return np.nan, 0.0
    grid = np.linspace(low, high, 1001)
    first, second = (np.interp(grid, x, accuracy) for x, accuracy in curves)
    difference = np.abs(first - second)
    return float((difference[1:] + difference[:-1]).mean() / 2), float(high - low)


# Half-lives -----------------------------------------------------------------------------------------------------------


class HalfTime(NamedTuple):
    """When half was left: not before `after`, at `at`.

    The two are equal where straight lines between evaluations say it; `at` is the first evaluation after the begin, and
    `after` the begin, where less than half was left there: half was left sooner. Where more than half is left at the
    last evaluation, that is `after`, and `at` is inf. Both are NaN where there was nothing to halve, or no evaluation.
    """

    after: float
    at: float


def half_time(x: np.ndarray, left: np.ndarray, whole: float) -> HalfTime:
    """When half of a whole is left:

        at = x_a + (x_b - x_a) (left_a - whole / 2) / (left_a - left_b)

    with neighbouring evaluations a, b, the first for which left_a > whole / 2 >= left_b. An exponential decay with rate
    r halves in ln 2 / r.

    Parameters
    ----------
    x
        (T,) steps or presentations from the begin on, rising.
    left
        (T,) what is left at each evaluation, whichever sign it takes later.
    whole
        What there is to halve; nothing where it is not positive.
    """
    if not whole > 0 or len(left) < 2:
        return HalfTime(np.nan, np.nan)
    reached = left <= whole / 2
    if not reached.any():
        return HalfTime(float(x[-1]), np.inf)
    b = int(reached.argmax())
    a = max(b - 1, 0)
    if x[a] <= x[0]:
        return HalfTime(float(x[0]), float(x[b]))
    at = float(x[a] + (x[b] - x[a]) * (left[a] - whole / 2) / (left[a] - left[b]))
    return HalfTime(at, at)


def median_half_time(seeds: Sequence[HalfTime]) -> tuple[HalfTime, float, float]:
    """Median over seeds, and the lowest and highest of them (NaN of one seed). NaN where a seed had nothing to halve.

    The median is known as well as the seeds in the middle are: it lies between the medians of both ends.
    """
    after, at = np.array(seeds, np.float64).T
    with np.errstate(invalid="ignore"):
        low, high = (at.min(), at.max()) if len(at) > 1 else (np.nan, np.nan)
        return HalfTime(float(np.median(after)), float(np.median(at))), float(low), float(high)
