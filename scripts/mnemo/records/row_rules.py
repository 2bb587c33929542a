"""What the rows of a notebook record are: phases from the counts of draws, true ranks from the rule of `pickle_rows`.

Letters: K sequences, S rows of one test_metrics. An epoch is an outer iteration: `num_iters_per_epoch` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemo.errors import DataError

ROW_STRIDE = 10  # notebooks turn a row into a rank by this factor
RULES = ("current", "all_phases", "all_validation", "all_ranks")


def first_epochs(logs: Sequence[dict[str, Any]], draws_per_epoch: int) -> list[int]:
    """First epoch of each phase, from `num_apppearances`: it sums to draws_per_epoch * (epoch - first epoch).

    Raises
    ------
    DataError
        Where the counts sum to something else, or a phase begins twice.
    """
    starts: list[int] = []
    for epoch, log in enumerate(logs):
        total = float(np.sum(log["num_apppearances"]))
        since = round(total / draws_per_epoch)
        if total != since * draws_per_epoch or since > epoch:
            raise DataError(
                f"logs[{epoch}].num_apppearances: sums to {total:.0f}, which is no multiple (up to {epoch}) of the "
                f"{draws_per_epoch} draws of an epoch"
            )
        if not starts or epoch - since != starts[-1]:
            if epoch - since != (epoch if starts else 0):
                raise DataError(
                    f"logs[{epoch}].num_apppearances: sums to {total:.0f}: counts go back only at a switch"
                )
            starts.append(epoch - since)
    return starts


def rows(rule: str, num_sequences: int, phase: int, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Phase and true rank of each row, (S,) each, of an evaluation in a phase.

    Parameters
    ----------
    rule
        `current`: every 10th rank of this phase. `all_ranks`: every rank of it. `all_phases`: every 10th of all
        sequences of all phases so far, one phase after another. `all_validation`: every `stride`-th rank of each phase.
    """
    if rule in ("current", "all_ranks"):
        rank = np.arange(0, num_sequences, ROW_STRIDE if rule == "current" else 1)
        return np.full(len(rank), phase), rank
    if rule == "all_phases":
        place = np.arange(0, (phase + 1) * num_sequences, ROW_STRIDE)
        return place // num_sequences, place % num_sequences
    rank = np.arange(0, num_sequences, stride)
    return np.repeat(np.arange(phase + 1), len(rank)), np.tile(rank, phase + 1)


def find_rule(
    metrics: Sequence[tuple[int, dict[str, Any]]], num_sequences: int
) -> tuple[str, list[tuple[np.ndarray, np.ndarray]]]:
    """The rule that all evaluations follow, with phase and true rank of their rows.

    Parameters
    ----------
    metrics
        (phase, test_metrics) of each evaluation; test_metrics are not empty.

    Raises
    ------
    DataError
        Where no rule fits the numbers of rows (and `true_rank`, where there is one).
    """
    strides = {1, ROW_STRIDE}
    if metrics and len(metrics[0][1].get("true_rank", ())) > 1:
        strides.add(max(1, int(metrics[0][1]["true_rank"][1])))
    for rule in RULES:
        for stride in sorted(strides) if rule == "all_validation" else [1]:
            found = [rows(rule, num_sequences, phase, stride) for phase, _ in metrics]
            if all(_fits(entry, rank) for (_, entry), (_, rank) in zip(metrics, found)):
                return rule, found
    sizes = sorted({(phase, len(entry["accuracy"])) for phase, entry in metrics})
    said = ", ".join(f"{size} rows in phase {phase}" for phase, size in sizes[:6])
    raise DataError(f"test_metrics: no rule of pickle_rows gives these rows for K = {num_sequences}: {said}")


def _fits(entry: dict[str, Any], rank: np.ndarray) -> bool:
    if len(entry["accuracy"]) != len(rank):
        return False
    return "true_rank" not in entry or np.array_equal(entry["true_rank"], rank)
