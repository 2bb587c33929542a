"""The tables of a comparison: members side by side by rank bin and presentations, beside the Bayes ceiling.

What each number means is said where it is computed, in curves. Runs that are done and differ in nothing but seeds
are one member: its accuracies, losses and bits are means over the seeds, its presentations medians. Each phase is
compared over the ranks that all runs in it have scored; a run that never reached it has no say. Letters: T evaluations,
S ranks of a bin, E bins, P phases, B bootstrap replicates.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemo import curves, members
from mnemo.comparison_text import TITLES
from mnemo.errors import DataError, UsageError
from mnemo.members import Member, Scope
from mnemo.runs import Run

Rows = list  # of dicts with equal keys: a table

MOMENTS = ("start", "before", "end")
OTHER_TASK = "one names whole sequences, the other predicts bits"


# One run --------------------------------------------------------------------------------------------------------------


def predictions(run: Run) -> int:
    """Predictions a sequence: L - 1, or L for a model that predicts bit 1 too."""
    return run.config["data"]["length"] - run.facts["model"]["first_position"]


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
    run: Run,
    scope: Scope,
    threshold: tuple[bool, float],
    replicates: int,
    seed: int = 0,
    only_seed: bool = True,
) -> dict[str, Any]:
    """All numbers of one run.

    Returns
    -------
    dict
        phases {phase: {accuracy_*, loss_*, ceiling, floor, presentations, presentations_after, seen (E,), resampled
        (E, B), bits_before, bits_end, bits_bayes, stride scalars; first, previous: the same of the run's first and of
        the previous phase over the ranks and bins of this one, or None}}; swaps {(event, set): {before, unswapped,
        swapped (E,), step}}; parameters; curves from `bin_curves`
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
        "curves": curves.bin_curves(run, scope.ranks, scope.bins),
    }  # fmt: skip


def _phase_numbers(run: Run, phase: int, columns: dict, bins: Sequence[curves.Bin]) -> dict[str, Any]:
    rank, numbers, whole = columns["rank"], {}, curves.names_sequences(run.facts)  # then a loss is of no bit
    unknown, bits = np.full(len(rank), np.nan), (predictions(run), curves.num_drawn(run))
    for moment, row in zip(MOMENTS, curves.moments(columns, phase, run.switches)):
        accuracy, loss = (unknown if row is None else columns[key][row] for key in ("accuracy", "loss"))
        numbers[f"accuracy_{moment}"] = curves.bin_mean(accuracy, rank, bins)
        numbers[f"loss_{moment}"] = curves.bin_mean(loss, rank, bins)
        numbers[f"bits_{moment}"] = math.nan if whole else curves.stored_bits(loss, *bits)
    floor, ceiling = (unknown if limit is None else limit for limit in curves.limits(run.theory, rank, phase))
    numbers.update(floor=curves.bin_mean(floor, rank, bins), ceiling=curves.bin_mean(ceiling, rank, bins))
    numbers["bits_bayes"] = math.nan if whole else curves.stored_bits(floor, *bits)
    numbers["stride"] = curves.stride(rank)
    return numbers


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
        plain, match = run.sets.get(base), re.fullmatch(r"phase_([0-9]{1,9})", base)
        if not event or plain is None or match is None or not len(swapped["step"]) or not len(plain["step"]):
            continue
        step, phase = int(swapped["step"][-1]), int(match.group(1))
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
    compared: Sequence[Member], edges: Sequence[int] | None, threshold: str, replicates: int = 500
) -> dict[str, Any]:
    """Every table of the comparison, from members.

    Returns
    -------
    dict
        threshold, notes, members [{name, runs, settings, parameters}] and the tables bins, switches, swaps, memory,
        distances: lists of flat records, numbers or None
    """
    wanted = curves.parse_threshold(threshold)
    scope = members.scope_of(members.all_runs(compared), edges)
    result: dict[str, Any] = {"threshold": threshold, "notes": members.notes(compared, scope, threshold), "members": []}
    tables: dict[str, Rows] = {name: [] for name in TITLES if name != "ranking"}
    all_seeds, count = [], len(members.all_runs(compared))
    for member in compared:
        runs = member.runs
        turns = enumerate(members.in_turn(runs, count))
        seeds = [measure(run, scope, wanted, replicates, index, len(runs) == 1) for index, run in turns]
        result["members"].append({
            "name": member.name, "runs": [str(run.path) for run in runs], "state": member.state or "done",
            "settings": runs[0].settings_line(), "parameters": seeds[0]["parameters"],
        })  # fmt: skip
        tables["bins"] += _bin_rows(member.name, seeds, scope)
        tables["switches"] += _switch_rows(member.name, seeds, scope)
        tables["swaps"] += _swap_rows(member.name, seeds, scope)
        tables["memory"] += _memory_rows(member.name, seeds)
        all_seeds.append((member.name, seeds))
    for name in dict.fromkeys(row["run"] for row in tables["bins"] if math.isnan(row["ceiling"]) and wanted[0]):
        result["notes"].append(
            f"{name}: no Bayes ceiling is known, so {threshold} says nothing; use --threshold ACCURACY"
        )
    result["notes"] += too_coarse(tables["bins"])
    if any(row["ranks"] <= row["last_rank"] - row["first_rank"] for row in tables["bins"]):
        result["notes"].append("ranks 0-9 (1): 1 of these ranks was scored")
    for (member, (name, seeds)), (peer, (other, others)) in itertools.combinations(zip(compared, all_seeds), 2):
        if members.same_task(member, peer):
            tables["distances"] += distance_rows(name, seeds, other, others, scope)
        else:
            result["notes"].append(f"no distance of {name} from {other}: {OTHER_TASK}")
    order = {member.name: index for index, member in enumerate(compared)}
    tables["bins"].sort(key=lambda row: (row["first_rank"], row["phase"], order[row["run"]]))
    tables["switches"].sort(key=lambda row: (row["first_rank"], row["switch"], order[row["run"]]))
    return {**result, **tables}


def _common_phases(seeds: Sequence[dict]) -> list[int]:
    return [phase for phase in seeds[0]["phases"] if all(phase in numbers["phases"] for numbers in seeds)]


def _bin_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    rows = []
    keys = [f"{key}_{moment}" for key in ("accuracy", "loss") for moment in MOMENTS] + ["ceiling", "floor", "seen"]
    for phase in _common_phases(seeds):
        numbers = [seed["phases"][phase] for seed in seeds]
        for index, label in enumerate(scope.labels(phase)):
            means = {key: float(np.mean([number[key][index] for number in numbers])) for key in keys}
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
    reached = [row for row in rows if math.isfinite(row["presentations"])]
    places: dict[tuple[str, str], list[str]] = {}
    for one, other in itertools.combinations(reached, 2):
        same = (one["first_rank"], one["phase"]) == (other["first_rank"], other["phase"])
        after = max(one["presentations_after"], other["presentations_after"])
        if same and after < min(one["presentations"], other["presentations"]):
            ranks = curves.bin_label((one["first_rank"], one["last_rank"] + 1))
            places.setdefault((one["run"], other["run"]), []).append(f"{ranks} of phase {one['phase']}")
    return [
        f"{one} and {other}: evaluations are too far apart to tell which needed fewer presentations: "
        f"{', '.join(found)}; a smaller eval.every can"
        for (one, other), found in places.items()
    ]


def _switch_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    """Drop and recovery between each phase and the one before, over the same ranks."""
    rows = []
    for phase in _common_phases(seeds):
        numbers = [seed["phases"][phase] for seed in seeds]
        if any(number["previous"] is None for number in numbers):
            continue
        for index, label in enumerate(scope.labels(phase)):
            before, start, after = (
                np.mean([number[key][index] for number in part])
                for part, key in (([number["previous"] for number in numbers], "accuracy_before"),
                                  (numbers, "accuracy_start"), (numbers, "accuracy_before"))
            )  # fmt: skip
            drop, recovery = curves.switch_drop(before, start, after)
            rows.append({"run": name, **label, "switch": phase, "drop": float(drop), "recovery": float(recovery)})
    return rows


def _swap_rows(name: str, seeds: Sequence[dict], scope: Scope) -> Rows:
    rows = []
    for event, base in seeds[0]["swaps"]:
        found = [seed["swaps"][event, base] for seed in seeds if (event, base) in seed["swaps"]]
        means = {key: np.mean([swap[key] for swap in found], axis=0) for key in ("before", "unswapped", "swapped")}
        recovery = curves.swap_recovery(**means)
        for index, label in enumerate(scope.labels(found[0]["phase"])):
            row = {"run": name, "event": event, "set": base, **label, "step": found[0]["step"]}
            row.update({key: float(value[index]) for key, value in means.items()}, recovery=float(recovery[index]))
            rows.append(row)
    return rows


def _memory_rows(name: str, seeds: Sequence[dict]) -> Rows:
    rows = []
    for phase in _common_phases(seeds):
        keys = ("bits_before", "bits_end", "bits_bayes")
        bits = {key: float(np.mean([seed["phases"][phase][key] for seed in seeds])) for key in keys}
        parameters = seeds[0]["parameters"]
        row = {"run": name, "phase": phase, **bits, "parameters": parameters}
        row["bits_per_parameter"] = bits["bits_before"] / parameters
        row["share_of_bayes"] = float(curves.share(bits["bits_before"], bits["bits_bayes"]))
        row["rank_stride"] = seeds[0]["phases"][phase]["stride"]
        rows.append(row)
    return rows


def distance_rows(name: str, seeds: Sequence[dict], other: str, others: Sequence[dict], scope: Scope) -> Rows:
    """Distances of two members by bin and phase: the mean over all pairs of their seeds."""
    rows = []
    for phase in (phase for phase in _common_phases(seeds) if phase in _common_phases(others)):
        for index, label in enumerate(scope.labels(phase)):
            pairs = [
                curves.curve_distance(*(tuple(x[:, index] for x in run["curves"][phase]) for run in (a, b)))
                for a in seeds
                for b in others
            ]
            distance, decades = np.mean(pairs, axis=0)
            rows.append({"run": name, "other": other, "phase": phase, **label,
                         "distance": float(distance), "decades": float(decades)})  # fmt: skip
    return rows


def rank_against(target: Member, candidates: Sequence[Member], edges: Sequence[int] | None) -> dict[str, Any]:
    """The candidates by their mean distance from the target, nearest first, with the settings that tell them apart."""
    scope = members.scope_of(members.all_runs((target, *candidates)), edges)

    def of(member: Member) -> list[dict]:
        runs = members.in_turn(member.runs, len(candidates))
        found = [curves.bin_curves(run, scope.ranks, scope.bins) for run in runs]
        return [{"curves": of_phase, "phases": of_phase} for of_phase in found]

    said = members.notes((target, *candidates), scope, "")[1:]
    said.append("decades: mean length of the stretch of presentations that both have; curves: bins and phases compared")
    wanted, varying, rows = of(target), members.differing_settings(candidates), []
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
        settings = members.settings(member)
        rows.append({
            "run": member.name,
            "distance": float(np.mean([row["distance"] for row in finite])) if finite else math.nan,
            "decades": float(np.mean([row["decades"] for row in finite])) if finite else 0.0,
            "curves": len(finite), **{name: settings.get(name) for name in varying},
        })  # fmt: skip
    rows.sort(key=lambda row: (not math.isfinite(row["distance"]), row["distance"]))
    return {"notes": said, "members": [{"name": target.name, "runs": [str(run.path) for run in target.runs]}],
            "ranking": rows}  # fmt: skip
