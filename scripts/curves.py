"""What the curves of a run mean, in one place: rank bins, rows before and after events, phases.

Works on the arrays that `mnemo_io.read_set` returns. A rank is always a true rank (0 = most frequent sequence), never a
row of a subset. Letters: T evaluations, S evaluated ranks, K sequences, E bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
        raise ValueError(f"bin edges must be at least two rising ranks >= 0, got {list(edges)}")
    starts = [edge for edge in edges[:-1] if edge < num_sequences]
    return [(start, min(end, num_sequences)) for start, end in zip(starts, edges[1:])]


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


def bin_mean(values: np.ndarray, rank: np.ndarray, bins: Sequence[Bin]) -> np.ndarray:
    """Mean over the evaluated ranks of each bin: (T, S) to (T, E), or (S,) to (E,); NaN where a bin holds none."""
    result = np.full((*values.shape[:-1], len(bins)), np.nan)
    for index, ranks in enumerate(bins):
        inside = values[..., bin_columns(rank, ranks)]
        if inside.shape[-1]:
            result[..., index] = inside.mean(axis=-1, dtype=np.float64)
    return result


def select_ranks(columns: dict[str, np.ndarray], rank: np.ndarray) -> dict[str, np.ndarray]:
    """A set cut to the ranks that `rank` holds too, so that two sets can be compared over the same ranks."""
    keep = np.flatnonzero(np.isin(columns["rank"], rank))
    if len(keep) == len(columns["rank"]):
        return columns
    return {name: array if name in ("step", "phase") else array[..., keep] for name, array in columns.items()}


def current_sequences(sets: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
    """The validation sets `phase_0`, `phase_1`, ... joined, each while it is current; None where they do not fit.

    Unlike `train` it holds every rank that the validation sets hold.
    """
    parts = []
    for phase in range(len(sets)):
        columns = sets.get(f"phase_{phase}")
        if columns is None:
            break
        rows = np.flatnonzero(columns["phase"] == phase)
        parts.append({name: array if name == "rank" else array[rows] for name, array in columns.items()})
    if not parts or any(not np.array_equal(part["rank"], parts[0]["rank"]) for part in parts):
        return None
    return {
        name: array if name == "rank" else np.concatenate([part[name] for part in parts])
        for name, array in parts[0].items()
    }


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
