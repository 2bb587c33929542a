"""What the runs of a sweep came to: its manifest, the settings that vary together, the last evaluation of each run.

A sweep is a folder with .sweep/manifest.jsonl, a line a run: {"run": "train.lr=0.001", "id": "...", "values":
{"train.lr": "0.001"}}. A result is the unweighted mean over the ranks of a set, as `mnemo best` has it; its limit is
that of the Bayes predictor over the same ranks, unweighted too: the mean over draws, which weighs rank r by p(r), is
another number. The Bayes predictor is the best there is for draws: a model that cares less for frequent ranks than they
are drawn may pass the limit of an unweighted mean, by little. Works on a sweep in flight; needs NumPy alone.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnemo import curves
from mnemo.errors import DataError
from mnemo.files import PathLike, read_text
from mnemo.runs import Run, open_run, run_state, set_order

FINISHED = ("done", "at_chance")  # states in which the last evaluation is a result
BETTER = {"loss": min, "accuracy": max}


class Measure(NamedTuple):
    """A result, what the Bayes predictor has in its place (NaN where that is not known), and what a guess has."""

    value: float
    limit: float
    chance: float


class Outcome(NamedTuple):
    """A run of a sweep; `measures` holds loss and accuracy once it is finished, and `settings` what its title says."""

    name: str
    values: dict[str, str]
    state: str
    measures: dict[str, Measure] = {}
    settings: tuple[str, ...] = ()


class Axis(NamedTuple):
    """Settings that vary together and what they are set to, in rising order where one has numbers alone.

    The first determines the others, as in a zip: each of its values goes with one value of each.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def place(self, run: Outcome) -> int:
        """Which of the values a run has."""
        return self.values.index(values_of(run.values, self.keys))

    def numbers(self) -> list[float] | None:
        """The values as numbers, rising; None where there are words among them, or several settings."""
        return _numbers([value for (value,) in self.values]) if len(self.keys) == 1 else None


def values_of(values: dict[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    """What some settings are set to; a dash for what a line of the manifest lacks."""
    return tuple(values.get(key, "-") for key in keys)


def _numbers(texts: Sequence[str]) -> list[float] | None:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


# Reading --------------------------------------------------------------------------------------------------------------


def manifest(folder: PathLike) -> Path:
    return Path(folder) / ".sweep/manifest.jsonl"


def read_manifest(folder: PathLike) -> dict[str, dict[str, str]]:
    """{run: {key: value}} in the order of the manifest; a line that cannot be read is left out, and said so."""
    path = manifest(folder)
    rows = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
            name, values = row["run"], row["values"]
            if Path(name).name != name or not all(isinstance(value, str) for value in values.values()):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            print(f"warning: {path}:{number}: not a run of a sweep, left out", file=sys.stderr)
            continue
        rows[name] = values
    if not rows:
        raise DataError(f"{path}: holds no run")
    return rows


def read_states(folder: PathLike) -> list[Outcome]:
    """The runs of a sweep, without their results, in the order of the manifest."""
    return [Outcome(name, values, run_state(Path(folder) / name)) for name, values in read_manifest(folder).items()]


def known_sets(folder: PathLike, runs: Sequence[Outcome]) -> list[str]:
    """Sets of the finished runs, `train` first; DataError when no run is finished, or none was evaluated."""
    finished = [Path(folder) / run.name for run in runs if run.state in FINISHED]
    if not finished:
        raise DataError(f"{folder}: no run is finished yet: {counts_text(runs)}")
    known = sorted({name for directory in finished for name in _sets(directory)}, key=set_order)
    if not known:
        raise DataError(f"{folder}: nothing has been evaluated (no eval/SET in its runs)")
    return known


def _sets(directory: Path) -> list[str]:
    return [file.parent.name for file in directory.glob("eval/*/step.npy")]


def read_last(directory: Path, name: str) -> Run:
    """A finished run of which set `name` is cut to its last row and to the ranks that are ever drawn."""
    return last_row(curves.only_drawn(open_run(directory)), name)


def last_row(run: Run, name: str) -> Run:
    """A run of which nothing but the last row of set `name` is left; DataError where it has none."""
    if name not in run.sets or not len(run.sets[name]["step"]) or not len(run.sets[name]["rank"]):
        raise DataError(f"{run.path}: set {name} was never evaluated")
    return run.replace(sets={name: curves.select_rows(run.sets[name], slice(-1, None))})


def measures(run: Run, name: str) -> dict[str, Measure]:
    """Loss and accuracy of what `read_last` gives."""
    columns = run.sets[name]
    limits = run.limits(name, int(columns["phase"][-1])) or (np.array(math.nan),) * 2
    values = (float(columns[key].mean(dtype=np.float64)) for key in BETTER)
    found = zip(BETTER, values, limits, curves.chance(run))
    result = {key: Measure(value, float(limit.mean()), chance) for key, value, limit, chance in found}
    loss = result["loss"]
    return {**result, "loss": loss._replace(value=math.inf if math.isnan(loss.value) else loss.value)}


def read_results(folder: PathLike, runs: Sequence[Outcome], name: str) -> tuple[list[Outcome], Run | None]:
    """The runs with the results of those that are finished, and the first of these as `read_last` gives it.

    Parameters
    ----------
    folder
        cache/GROUP.
    runs
        From `read_states`, one of them finished.
    name
        The set whose mean is taken.
    """
    results, first = [], None
    for run in runs:
        if run.state in FINISHED:
            last = read_last(Path(folder) / run.name, name)  # not kept: its mapped files hold descriptors
            run, first = run._replace(measures=measures(last, name), settings=settings_words(last)), first or last
        results.append(run)
    return results, first


def settings_words(run: Run) -> tuple[str, ...]:
    """What a title says of a run, setting by setting."""
    return tuple(run.settings_line(" · ").replace(": ", " · ", 1).split(" · "))


def counts_text(runs: Sequence[Outcome]) -> str:
    """`18 of 21 runs done, 1 diverged, 2 waiting`."""
    counts = Counter(run.state for run in runs)
    done = counts.pop("done", 0)
    return ", ".join([f"{done} of {len(runs)} runs done", *(f"{counts[state]} {state}" for state in sorted(counts))])


def common_settings(runs: Sequence[Outcome]) -> list[str]:
    """What the titles of all finished runs say alike."""
    return common_words([run.settings for run in runs if run.settings])


def common_words(settings: Sequence[Sequence[str]]) -> list[str]:
    """What all of some titles say alike, in the order of the first."""
    return [word for word in settings[0] if all(word in others for others in settings)]


# Axes -----------------------------------------------------------------------------------------------------------------


def varying_keys(runs: Sequence[Outcome]) -> list[str]:
    """Settings with more than one value, in the order in which the manifest has them."""
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return [key for key in keys if len({values_of(run.values, (key,)) for run in runs}) > 1]


def axes_of(runs: Sequence[Outcome], over: Sequence[str] = ()) -> list[Axis]:
    """The axes of a sweep but for the settings of `over`; [] where no other setting varies."""
    keys = [key for key in varying_keys(runs) if key not in over]
    order = {key: index for index, key in enumerate(keys)}

    def leads(one: str, other: str) -> bool:
        forth, back = _determines(runs, one, other), _determines(runs, other, one)
        return one != other and forth and (not back or order[one] < order[other])

    leaders = [key for key in keys if not any(leads(other, key) for other in keys)]
    followers: dict[str, list[str]] = {leader: [] for leader in leaders}
    for key in keys:
        if key not in followers:
            followers[next(leader for leader in leaders if leads(leader, key))].append(key)
    return [_axis(runs, (leader, *others)) for leader, others in followers.items()]


def _determines(runs: Sequence[Outcome], one: str, other: str) -> bool:
    """Whether each value of one setting goes with a single value of another."""
    pairs = {values_of(run.values, (one, other)) for run in runs}
    return len(pairs) == len({value for value, _ in pairs})


def _axis(runs: Sequence[Outcome], keys: tuple[str, ...]) -> Axis:
    values = list(dict.fromkeys(values_of(run.values, keys) for run in runs))
    numbers = _numbers([value[0] for value in values])
    if numbers is not None:
        values = [value for _, value in sorted(zip(numbers, values))]
    return Axis(keys, tuple(values))


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """`lr` for `train.lr`, where no other key ends so."""
    ends = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends)}


def setting_text(axis: Axis, place: int) -> str:
    """`heads = 1, init_std = 0.01`."""
    short = short_keys(axis.keys)
    return ", ".join(f"{short[key]} = {value}" for key, value in zip(axis.keys, axis.values[place]))


# Points ---------------------------------------------------------------------------------------------------------------

Points = dict  # {(place on each axis, ...): [Outcome, ...]}


def points_of(runs: Sequence[Outcome], axes: Sequence[Axis]) -> Points:
    """Runs that have all axes in common, by their places on them."""
    points: Points = {}
    for run in runs:
        points.setdefault(tuple(axis.place(run) for axis in axes), []).append(run)
    return dict(sorted(points.items()))


def mean_of(runs: Sequence[Outcome], key: str) -> Measure | None:
    """Mean of the finished among some runs; None where there is none."""
    found = [run.measures[key] for run in runs if run.measures]
    return Measure(*(sum(values) / len(found) for values in zip(*found))) if found else None


def means_of(points: Points, key: str) -> dict[tuple[int, ...], Measure]:
    """{place: mean} of points with a finished run."""
    means = {place: mean_of(runs, key) for place, runs in points.items()}
    return {place: mean for place, mean in means.items() if mean is not None}


def best_place(means: dict[tuple[int, ...], Measure], key: str) -> tuple[int, ...]:
    """Where the mean is best; the first of equal ones."""
    return BETTER[key](means, key=lambda place: means[place].value)


def edge_warning(axis: Axis, tried: Sequence[int], place: int) -> str | None:
    """`the best train.lr = 0.003 is the largest tried; try 0.009 or 0.027`: where a best value has none on one side.

    Parameters
    ----------
    axis
        Of one setting with numbers.
    tried
        Places on it that have a result.
    place
        The best of them.
    """
    numbers = axis.numbers()
    if numbers is None or len(set(tried)) < 2 or place not in (min(tried), max(tried)):
        return None
    largest = place == max(tried)
    beside = numbers[sorted(set(tried))[-2 if largest else 1]]
    further = _beyond(numbers[place], beside, all(number.is_integer() for number in numbers))
    if not further:
        return None
    text = f"the best {axis.keys[0]} = {axis.values[place][0]} is the {'largest' if largest else 'smallest'} tried"
    return f"{text}; try {' or '.join(f'{value:.6g}' for value in further)}"


def _beyond(value: float, beside: float, whole: bool) -> list[float]:
    """The two values that go on from `beside` over `value`: by the same factor where both are positive."""
    further, following = [], value
    for _ in range(2):
        following = following * (value / beside) if min(value, beside) > 0 else following + (value - beside)
        if whole:
            following = float(math.ceil(following) if value > beside else math.floor(following))
            if following < 1 <= value:
                break
        further.append(following)
    return further
