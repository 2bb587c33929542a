"""The tables of a comparison: members side by side by rank bin and presentations, beside the Bayes ceiling.

What each number means is said where it is computed, in curves. Runs that are done and differ in nothing but seeds
are one member: its accuracies, losses and bits are means over the seeds with their standard deviation, presentations
and half-lives medians. Each phase is compared over the ranks that all runs in it have scored; a run that never reached
it has no say. Behind the name of a run its row has the settings that differ. Letters: T evaluations, S ranks of a bin,
E bins, B bootstrap replicates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemo import curves, members
from mnemo.comparison_text import TITLES
from mnemo.errors import DataError, UsageError
from mnemo.members import Member, Scope
from mnemo.runs import Run, phase_number

Rows = list  # of dicts with equal keys: a table

MOMENTS = ("start", "before", "end")
MAX_PAIRS = 6  # of runs that notes name one by one
OTHER_TASK = "one names whole sequences, the other predicts bits"


# One run --------------------------------------------------------------------------------------------------------------


def num_parameters(run: Run) -> float:
    """Trainable numbers, NaN where a record does not say."""
    return float(run.facts["model"].get("num_parameters") or math.nan)


def check_threshold(
    run: Run, threshold: tuple[bool, float], means: np.ndarray, bins: Sequence[curves.Bin]
) -> None:
    """Refuses an absolute threshold that the Bayes predictor itself does not reach."""
    for value, ranks in zip(means, bins):
        if not threshold[0] and threshold[1] > value:
            raise UsageError(
                f"threshold {threshold[1]:g} is above the Bayes ceiling {value:.3f} of {curves.bin_label(ranks)} of "
                f"{run.path}; choose --bins with a higher ceiling, or --threshold ceiling:0.9"
            )


def measure(
    run: Run, scope: Scope, threshold: tuple[bool, float], replicates: int, seed: int = 0, only_seed: bool = True
) -> dict[str, Any]:
    """All numbers of one run.

    Returns
    -------
    dict
        phases {phase: {accuracy_*, loss_*, ceiling, floor, presentations, presentations_after, seen (E,), resampled
        (E, B), bits_*, bits_bayes, stride scalars; story from `_story`; first, previous: the same of the run's first
        and of the previous phase over the ranks and bins of this one, or None}}; swaps {(event, set): {before,
        unswapped, swapped (E,), step, phase}}; parameters
    """
    known: dict[Any, dict[str, Any] | None] = {}

    def numbers(phase: int, over: int) -> dict[str, Any] | None:
        bins, ranks = scope.bins[over], scope.ranks[over]
        columns = curves.phase_columns(run.sets, phase, ranks)
        key = phase, tuple(bins), ranks.tobytes()
        if columns is not None and key not in known:
            known[key] = _phase_numbers(run, phase, columns, bins)
            known[key].update(_presentations(run, phase, columns, bins, threshold, replicates, seed, only_seed))
        return known.get(key)

    phases = curves.phases(run)
    found = {phase: numbers(phase, phase) for phase in phases}
    return {
        "phases": {
            phase: {**own, "first": numbers(phases[0], phase) if phase != phases[0] else None,
                    "previous": numbers(phase - 1, phase) if phase - 1 in phases else None}
            for phase, own in found.items() if own is not None
        },
        "swaps": _swaps(run, scope), "parameters": num_parameters(run),
    }  # fmt: skip


def _phase_numbers(run: Run, phase: int, columns: dict, bins: Sequence[curves.Bin]) -> dict[str, Any]:
    rank, numbers, whole = columns["rank"], {}, curves.names_sequences(run.facts)  # then a loss is of no bit
    means = {key: curves.bin_mean(columns[key], rank, bins) for key in ("accuracy", "loss", "presentations")}
    unknown, bits = np.full(len(rank), np.nan), (curves.predictions(run), curves.num_drawn(run))
    for moment, row in zip(MOMENTS, curves.moments(columns, phase, run.switches)):
        for key in ("accuracy", "loss"):
            numbers[f"{key}_{moment}"] = np.full(len(bins), np.nan) if row is None else means[key][row]
        loss = unknown if row is None else columns["loss"][row]
        numbers[f"bits_{moment}"] = math.nan if whole else curves.stored_bits(loss, *bits)
    floor, ceiling = (unknown if limit is None else limit for limit in curves.limits(run.theory, rank, phase))
    numbers.update(floor=curves.bin_mean(floor, rank, bins), ceiling=curves.bin_mean(ceiling, rank, bins))
    numbers["bits_bayes"] = math.nan if whole else curves.stored_bits(floor, *bits)
    return {**numbers, "stride": curves.stride(rank), "story": _story(run, phase, columns, means, bins)}


def _story(
    run: Run, phase: int, columns: dict, means: dict[str, np.ndarray], bins: Sequence[curves.Bin]
) -> dict[str, Any]:
    """What half-lives are made of, (T, E) each by rank bin.

    Returns
    -------
    dict
        learning: steps (T,) and presentations since the phase began, while it was current; forgetting: steps (T,) since
        the switch that ended it, from the last evaluation before on, empty where none did; both with `gain` by measure:
        accuracy above chance, loss below it. least (E,): two standard errors of the accuracy of guesses.
    """
    chance = dict(zip(("loss", "accuracy"), curves.chance(run)))
    gain = {"accuracy": means["accuracy"] - chance["accuracy"], "loss": chance["loss"] - means["loss"]}
    at = curves.phase_starts(run.switches)
    step, before = columns["step"], curves.moments(columns, phase, run.switches)[1]
    current = np.flatnonzero(columns["phase"] == phase)
    later = slice(len(step) if before is None or phase + 1 not in at else before, None)

    def part(rows: Any, begin: int) -> dict[str, Any]:
        found = {"steps": np.maximum(step[rows] - begin, 0), "presentations": means["presentations"][rows]}
        return {**found, "gain": {name: values[rows] for name, values in gain.items()}}

    return {"learning": part(current, at.get(phase, 0)), "forgetting": part(later, at.get(phase + 1, 0)),
            "least": 2 * curves.guess_error(run, columns["rank"], bins)}  # fmt: skip


def _presentations(
    run: Run,
    phase: int,
    columns: dict,
    bins: Sequence[curves.Bin],
    threshold: tuple,
    replicates: int,
    seed: int,
    only_seed: bool,
) -> dict[str, np.ndarray]:
    """Presentations to the threshold by bin, at the evaluation before, for resampled ranks, and seen in all.

    NaN where there is nothing to learn: a ceiling that is no better than chance.
    """
    rows, rank = np.flatnonzero(columns["phase"] == phase), columns["rank"]
    ceiling, chance = curves.limits(run.theory, rank, phase)[1], curves.chance(run)[1]
    if ceiling is not None:
        check_threshold(run, threshold, curves.bin_mean(ceiling, rank, bins), bins)
    target = curves.target_accuracy(threshold, ceiling, len(rank), chance)
    point, after, seen = (np.full(len(bins), np.nan) for _ in range(3))
    resampled = np.full((len(bins), replicates), np.nan)
    for index, ranks in enumerate(bins):
        inside = curves.bin_columns(rank, ranks)
        wanted = target[inside]
        learnable = ceiling is None or len(wanted) == 0 or ceiling[inside].mean() > chance + 1e-9
        if len(wanted) == 0 or len(rows) == 0 or not np.isfinite(wanted).all() or not learnable:
            continue
        accuracy, presentations = (columns[key][:, inside][rows] for key in ("accuracy", "presentations"))
        generator = np.random.default_rng([seed, index])  # the same ranks in every phase: ratios are paired
        found = curves.bootstrap_presentations(accuracy, presentations, wanted, replicates, generator)
        after[index], point[index], resampled[index] = found
        seen[index] = presentations[-1].mean()
        if len(wanted) == 1:
            resampled[index] = np.nan if only_seed else point[index]  # one rank of one seed says nothing of its spread
    return {"presentations": point, "presentations_after": after, "resampled": resampled, "seen": seen}


def _swaps(run: Run, scope: Scope) -> dict[tuple[str, str], dict[str, Any]]:
    """Sets `EVENT.phase_<k>` of swap tests beside `phase_<k>`, which was scored at the same step without the swap."""
    result = {}
    for name, swapped in run.sets.items():
        event, _, base = name.rpartition(".")
        plain, phase = run.sets.get(base), phase_number(base)
        if not event or plain is None or phase is None or not len(swapped["step"]) or not len(plain["step"]):
            continue
        step = int(swapped["step"][-1])
        row = int(np.searchsorted(plain["step"], step, "right")) - 1
        before = curves.moments(plain, phase, run.switches)[1]
        if row < 0 or before is None or not np.array_equal(plain["rank"], swapped["rank"]):
            continue
        plain, swapped = (curves.select_ranks(columns, scope.ranks[phase]) for columns in (plain, swapped))
        values = {"before": plain["accuracy"][min(before, row)], "unswapped": plain["accuracy"][row]}
        values["swapped"] = swapped["accuracy"][-1]
        bins = scope.bins[phase]
        result[event, base] = {key: curves.bin_mean(value, plain["rank"], bins) for key, value in values.items()}
        result[event, base].update(step=step, phase=phase)
    return result


# Tables ---------------------------------------------------------------------------------------------------------------


def compare(
    compared: Sequence[Member],
    edges: Sequence[int] | None,
    threshold: str,
    replicates: int = 500,
    distances: bool = False,
) -> dict[str, Any]:
    """Every table of the comparison, from members; that of distances between each two of them where it is asked for.

    Returns
    -------
    dict
        threshold, notes, members [{name, runs, settings, parameters}], varying [settings that differ], and the tables
        bins, switches, half_lives, swaps, memory, distances: lists of flat records, numbers or None
    """
    wanted = curves.parse_threshold(threshold)
    scope = members.scope_of(members.all_runs(compared), edges)
    tables: dict[str, Rows] = {name: [] for name in TITLES if name != "ranking"}
    described, by_seed, count = [], [], len(members.all_runs(compared))
    for member in compared:
        runs, of_bins = member.runs, []
        seeds = []
        for index, run in enumerate(members.in_turn(runs, count)):
            seeds.append(measure(run, scope, wanted, replicates, index, len(runs) == 1))
            of_bins += [curves.bin_curves(run, scope.ranks, scope.bins)] if distances else []
        described.append({
            "name": member.name, "runs": [str(run.path) for run in runs], "state": member.state or "done",
            "settings": runs[0].settings_line(), "parameters": seeds[0]["parameters"],
        })  # fmt: skip
        tables["bins"] += _bin_rows(member.name, seeds, scope)
        tables["switches"] += _switch_rows(member.name, seeds, scope)
        tables["half_lives"] += _half_life_rows(member.name, seeds, scope)
        tables["swaps"] += _swap_rows(member.name, seeds, scope)
        tables["memory"] += _memory_rows(member.name, seeds)
        by_seed.append(of_bins)
    notes = members.notes(compared, scope, threshold) + _notes(tables["bins"], threshold)
    if distances:
        tables["distances"], others = all_distances(compared, by_seed, scope)
        notes += others
    order = {member.name: index for index, member in enumerate(compared)}
    for name in ("bins", "switches", "half_lives"):
        tables[name].sort(key=lambda row: (row["first_rank"], row.get("phase", row.get("switch")), order[row["run"]]))
    varying, columns = members.differing_settings(compared), members.columns(compared)
    tables = {name: [_with_settings(row, columns) for row in rows] for name, rows in tables.items()}
    return {"threshold": threshold, "notes": notes, "members": described, "varying": varying, **tables}


def _with_settings(row: dict[str, Any], columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A row with the settings that differ after the name of each run in it; those of a second one as `other.KEY`."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        result[key] = value
        if key in ("run", "other"):
            before = "" if key == "run" else "other."
            result.update({before + name: setting for name, setting in columns[value].items()})
    return result


def _notes(bins: Rows, threshold: str) -> list[str]:
    """What is to be said of the rows of `bins`."""
    relative = curves.parse_threshold(threshold)[0]
    result = [
        f"{name}: no Bayes ceiling is known, so {threshold} says nothing; use --threshold ACCURACY"
        for name in dict.fromkeys(row["run"] for row in bins if math.isnan(row["ceiling"]) and relative)
    ]
    result += too_coarse(bins)
    if any(row["ranks"] <= row["last_rank"] - row["first_rank"] for row in bins):
        result.append("ranks 0-9 (1): 1 of these ranks was scored")
    return result


def _common_phases(seeds: Sequence[dict]) -> list[int]:
    return [phase for phase in seeds[0]["phases"] if all(phase in numbers["phases"] for numbers in seeds)]


def _with_spread(key: str, values: Sequence[Any]) -> dict[str, float]:
    """Mean over seeds, and their standard deviation as `KEY_spread`."""
    return dict(zip((key, f"{key}_spread"), map(float, curves.mean_and_spread(np.array(values)))))


def _bin_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    rows = []
    for phase in _common_phases(seeds):
        numbers = [seed["phases"][phase] for seed in seeds]
        for index, label in enumerate(scope.labels(phase)):
            means: dict[str, float] = {}
            for key in (f"{key}_{moment}" for key in ("accuracy", "loss") for moment in MOMENTS):
                means.update(_with_spread(key, [number[key][index] for number in numbers]))
            for key in ("ceiling", "floor", "seen"):
                means[key] = float(np.mean([number[key][index] for number in numbers]))
            reached, after = (
                np.array([number[key][index] for number in numbers]) for key in ("presentations", "presentations_after")
            )
            resampled = np.array([number["resampled"][index] for number in numbers])
            median, low, high = curves.median_over_seeds(reached, resampled, np.random.default_rng(0))
            times = {"presentations_after": np.median(after), "presentations": median,
                     "presentations_low": low, "presentations_high": high}  # fmt: skip
            times = {key: float(value) for key, value in times.items()}
            rows.append({"run": name, **label, "phase": phase, **means, **times, **_speedup(numbers, index)})
    return rows


def _speedup(numbers: Sequence[dict], index: int) -> dict[str, float]:
    """Presentations in the first phase / in this one, with interval; the bound holds where one is censored."""
    keys = ("speedup", "speedup_low", "speedup_high", "speedup_bound")
    pairs_of_phases = [(new["first"], new) for new in numbers if new["first"] is not None]
    if not pairs_of_phases:
        return dict.fromkeys(keys, math.nan)

    def ratios(key: str, most: str | None = None) -> np.ndarray:
        pairs = [(old[key][index], new[key][index]) for old, new in pairs_of_phases]
        if most:
            limits = [(old[most][index], new[most][index]) for old, new in pairs_of_phases]
            pairs = np.minimum(pairs, limits)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array([old / new for old, new in pairs])

    values = curves.median_over_seeds(ratios("presentations"), ratios("resampled"), np.random.default_rng(0))
    return dict(zip(keys, map(float, [*values, np.median(ratios("presentations", most="seen"))])))


def too_coarse(rows: Rows) -> list[str]:
    """Pairs of runs whose presentations to the threshold lie between evaluations too far apart to tell which is first.

    Each number lies between two evaluations; where two such stretches overlap, their difference says nothing.
    """
    same: dict[tuple[int, int], Rows] = {}
    for row in rows:
        if math.isfinite(row["presentations"]):
            same.setdefault((row["first_rank"], row["phase"]), []).append(row)
    places: dict[tuple[str, str], list[str]] = {}
    for one, other in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in same.values()):
        after = max(one["presentations_after"], other["presentations_after"])
        if after < min(one["presentations"], other["presentations"]):
            ranks = curves.bin_label((one["first_rank"], one["last_rank"] + 1))
            places.setdefault((one["run"], other["run"]), []).append(f"{ranks} of phase {one['phase']}")
    said = "evaluations are too far apart to tell which needed fewer presentations"
    if len(places) > MAX_PAIRS:
        return [f"of {len(places)} pairs of runs {said} in some of the bins; a smaller eval.every can"]
    return [
        f"{one} and {other}: {said}: {', '.join(found)}; a smaller eval.every can"
        for (one, other), found in places.items()
    ]


def _after_switches(seeds: Sequence[dict]) -> list[tuple[int, list[dict]]]:
    """Phases that follow another, and the numbers of each seed in them."""
    found = [(phase, [seed["phases"][phase] for seed in seeds]) for phase in _common_phases(seeds)]
    return [(phase, numbers) for phase, numbers in found if all(n["previous"] and n["first"] for n in numbers)]


def _switch_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    """Drop and recovery between each phase and the one before, over the same ranks."""
    rows = []
    for phase, numbers in _after_switches(seeds):
        for index, label in enumerate(scope.labels(phase)):
            story = np.array([
                (number["previous"]["accuracy_before"][index], number["accuracy_start"][index],
                 number["accuracy_before"][index]) for number in numbers
            ]).T  # fmt: skip
            drops, recovery = curves.switch_drop(*story)[0], curves.switch_drop(*story.mean(axis=1))[1]
            rows.append({
                "run": name, **label, "switch": phase, **_with_spread("drop", drops), "recovery": float(recovery),
            })  # fmt: skip
    return rows


def _half_life_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    """Of each switch and measure: half-life of what was known of the old sequences, half-times of first and new ones.

    Half-way in learning is half-way to what the first phase came to, for the first and for the new sequences.
    """
    rows = []
    for phase, numbers in _after_switches(seeds):
        for (index, label), of in itertools.product(enumerate(scope.labels(phase)), ("accuracy", "loss")):
            known, times = zip(*(_half_times(number, of, index) for number in numbers))
            rows.append({"run": name, **label, "switch": phase, "of": of, **_with_spread("known", known)})
            for key in times[0]:
                rows[-1].update(_half_time_columns(key, [seed[key] for seed in times]))
    return rows


def _half_times(number: dict, of: str, index: int) -> tuple[float, dict[str, curves.HalfTime]]:
    """What was known of the old sequences of a bin when a switch replaced them, and the half-times of one seed."""
    first, old, new = (part["story"] for part in (number["first"], number["previous"], number))
    gain = old["forgetting"]["gain"][of][:, index]
    known = float(gain[0]) if len(gain) else math.nan
    least = first["least"][index]
    whole = _known(old["forgetting"]["gain"], least, of, index, 0)
    times = {"half_life": curves.half_time(old["forgetting"]["steps"], gain, whole)}
    whole = _known(first["learning"]["gain"], least, of, index, -1)
    for key, story in (("learned", first["learning"]), ("relearned", new["learning"])):
        left = whole - story["gain"][of][:, index]
        times[key] = curves.half_time(story["steps"], left, whole)
        times[f"{key}_presentations"] = curves.half_time(story["presentations"][:, index], left, whole)
    return known, times


def _known(gain: dict[str, np.ndarray], least: float, of: str, index: int, row: int) -> float:
    """Gain of a bin at an evaluation; NaN where there is none, or its accuracy is one that guesses may have."""
    if not len(gain[of]) or not gain["accuracy"][row, index] > least:
        return math.nan
    return float(gain[of][row, index])


def _half_time_columns(key: str, seeds: Sequence[curves.HalfTime]) -> dict[str, float]:
    median, low, high = curves.median_half_time(seeds)
    return {f"{key}_after": median.after, key: median.at, f"{key}_low": low, f"{key}_high": high}


def _swap_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    rows = []
    for event, base in seeds[0]["swaps"]:
        found = [seed["swaps"][event, base] for seed in seeds if (event, base) in seed["swaps"]]
        keys = ("before", "unswapped", "swapped")
        recovery = curves.swap_recovery(**{key: np.mean([swap[key] for swap in found], axis=0) for key in keys})
        for index, label in enumerate(scope.labels(found[0]["phase"])):
            row = {"run": name, "event": event, "set": base, **label, "step": found[0]["step"]}
            for key in keys:
                row.update(_with_spread(key, [swap[key][index] for swap in found]))
            rows.append({**row, "recovery": float(recovery[index])})
    return rows


def _memory_rows(name: str, seeds: Sequence[dict]) -> Rows:
    rows = []
    for phase in _common_phases(seeds):
        row: dict[str, Any] = {"run": name, "phase": phase}
        for key in ("bits_before", "bits_end", "bits_bayes"):
            row.update(_with_spread(key, [seed["phases"][phase][key] for seed in seeds]))
        row["parameters"] = seeds[0]["parameters"]
        row["bits_per_parameter"] = row["bits_before"] / row["parameters"]
        row["share_of_bayes"] = float(curves.share(row["bits_before"], row["bits_bayes"]))
        row["rank_stride"] = seeds[0]["phases"][phase]["stride"]
        rows.append(row)
    return rows


# Distances ------------------------------------------------------------------------------------------------------------

SeedCurves = list  # of {phase: curves.BinCurves}, one a seed


def distance_rows(name: str, seeds: SeedCurves, other: str, others: SeedCurves, scope: Scope) -> Rows:
    """Distances of two members by bin and phase: the mean over all pairs of their seeds."""
    rows = []
    common = [phase for phase in seeds[0] if all(phase in run for run in (*seeds, *others))]
    for phase, (index, label) in ((number, bin_) for number in common for bin_ in enumerate(scope.labels(number))):
        pairs = [
            curves.curve_distance(
                *((run[phase].presentations[:, index], run[phase].accuracy[:, index]) for run in (a, b))
            )
            for a, b in itertools.product(seeds, others)
        ]
        distance, decades = map(float, np.mean(pairs, axis=0))
        rows.append(
            {"run": name, "other": other, "phase": phase, **label, "distance": distance, "decades": decades}
        )
    return rows


def all_distances(compared: Sequence[Member], by_seed: Sequence[SeedCurves], scope: Scope) -> tuple[Rows, list[str]]:
    """Distances of each two members, and which have none."""
    rows, left_out = [], []
    for (member, seeds), (other, others) in itertools.combinations(zip(compared, by_seed), 2):
        if members.same_task(member, other):
            rows += distance_rows(member.name, seeds, other.name, others, scope)
        else:
            left_out.append(f"no distance of {member.name} from {other.name}: {OTHER_TASK}")
    return rows, left_out


def rank_against(target: Member, candidates: Sequence[Member], edges: Sequence[int] | None) -> dict[str, Any]:
    """The candidates by their mean distance from the target, nearest first, with the settings that tell them apart."""
    scope = members.scope_of(members.all_runs((target, *candidates)), edges)

    def of(member: Member) -> SeedCurves:
        runs = members.in_turn(member.runs, len(candidates))
        return [curves.bin_curves(run, scope.ranks, scope.bins) for run in runs]

    said = members.notes((target, *candidates), scope, "")[1:]
    said.append("decades: mean length of the stretch of presentations that both have; curves: bins and phases compared")
    wanted, columns, rows = of(target), members.columns(candidates), []
    for member in candidates:
        if not members.same_task(target, member):
            said.append(f"left out: {member.name}: {OTHER_TASK}")
            continue
        try:
            found = of(member)
        except DataError as error:  # a sweep may hold a run that has not begun
            said.append(f"left out: {error}")
            continue
        distances = distance_rows(target.name, wanted, member.name, found, scope)
        finite = [row for row in distances if math.isfinite(row["distance"])]
        mean, decades = (np.mean([row[key] for row in finite] or [none])
                         for key, none in (("distance", math.nan), ("decades", 0.0)))  # fmt: skip
        row = {"run": member.name, "distance": float(mean), "decades": float(decades), "curves": len(finite)}
        rows.append(_with_settings(row, columns))
    rows.sort(key=lambda row: (not math.isfinite(row["distance"]), row["distance"]))
    return {"notes": said, "members": [{"name": target.name, "runs": [str(run.path) for run in target.runs]}],
            "varying": members.differing_settings(candidates), "ranking": rows}  # fmt: skip
