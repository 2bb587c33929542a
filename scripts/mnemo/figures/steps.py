"""The figure of a run: loss and accuracy against step, by rank bin, beside the Bayes floor and ceiling of each bin.

After a switch the sequences of the first phase are drawn too, dashed, over the same ranks: what is forgotten.
Works on what is in flight. Needs Matplotlib; the same run gives the same bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemo import curves
from mnemo.errors import DataError
from mnemo.figures import style
from mnemo.runs import Run, set_phase

SWAPPED = {"linestyle": "none", "markersize": 6.0, "markeredgecolor": "white"}  # swap tests
MARKERS = "Ds^vPX"  # of each in turn


def default_set(run: Run) -> str:
    """`current` or `train` where it is, else the first set; DataError when the run has none."""
    if not run.sets:
        raise DataError(f"{run.path}: nothing has been evaluated yet (no eval/SET)")
    return next((name for name in ("current", "train") if name in run.sets), next(iter(run.sets)))


def follows_switches(name: str) -> bool:
    """Whether a set holds other sequences after a switch, as `train` does."""
    return set_phase(name, 0) != set_phase(name, 1)


def segments(run: Run, name: str) -> list[slice]:
    """Stretches of rows in which a set's sequences stay the same: a curve breaks between them."""
    phase = run.sets[name]["phase"]
    return [rows for _, rows in curves.phase_segments(phase)] if follows_switches(name) else [slice(0, len(phase))]


def phase_spans(run: Run, name: str, last_step: int) -> list[tuple[int, int, int]]:
    """(phase, first step, last step) of the sequences that a set holds; [] for sequences that are never trained on."""
    starts = curves.phase_starts(run.switches)
    if follows_switches(name):
        return list(zip(starts, starts.values(), [*list(starts.values())[1:], last_step]))
    phase = set_phase(name, 0)
    return [(phase, starts[phase], last_step)] if phase in starts else []


def first_sequences(run: Run, name: str) -> dict[str, np.ndarray] | None:
    """Rows of set `phase_0` from the first switch on, over the ranks of set `name`; None where there are none."""
    if not run.switches or not follows_switches(name) or "phase_0" not in run.sets:
        return None
    columns = curves.select_ranks(run.sets["phase_0"], run.sets[name]["rank"])
    rows = curves.rows_after(columns["step"], run.switches[0]["step"])
    if len(columns["step"][rows]) == 0 or len(columns["rank"]) == 0:
        return None
    return {key: array if key == "rank" else array[rows] for key, array in columns.items()}


def swap_tests(run: Run, name: str) -> dict[str, dict[str, np.ndarray]]:
    """{event: columns} of swap tests that scored a set's sequences, or the first ones where it follows switches."""
    base = "phase_0" if follows_switches(name) else name
    tests = {key[: -len(base) - 1]: columns for key, columns in run.sets.items() if key.endswith(f".{base}")}
    tests = {event: curves.select_ranks(columns, run.sets[name]["rank"]) for event, columns in tests.items()}
    return {event: columns for event, columns in tests.items() if len(columns["step"]) and len(columns["rank"])}


def draw(run: Run, name: str, bins: Sequence[curves.Bin], log: bool = False) -> Any:
    """The figure of a run.

    Parameters
    ----------
    run
        The run; `mnemo.curves.only_drawn` leaves out what is never drawn.
    name
        The set to draw.
    bins
        Rank bins, from `curves.rank_bins`; those without an evaluated rank are left out.
    log
        Logarithmic loss axis.
    """
    figure, axes = style.panels()
    columns, old = run.sets[name], first_sequences(run, name)
    rank = columns["rank"]
    bins = curves.bins_with(rank, bins)
    colors = style.bin_colors(len(bins))
    last_step, chance = _last_step(run, name), curves.chance(run)
    _draw_train_loss(axes["loss"], run)
    for key, panel in axes.items():
        panel.axhline(chance[style.POSITION[key]], color=style.FAINT, linewidth=1.0, zorder=0.5)
        _draw_limits(panel, run, name, key, bins, colors, last_step)
        if old is not None:
            _draw_curves(panel, old, slice(None), key, bins, colors, **style.DASHED)
        for rows in segments(run, name):
            _draw_curves(panel, columns, rows, key, bins, colors, **style.SOLID)
        for marker, swapped in zip(itertools.cycle(MARKERS), swap_tests(run, name).values()):
            _draw_curves(panel, swapped, slice(None), key, bins, colors, marker=marker, **SWAPPED)
    style.finish_axes(axes, (0, last_step), "step", log, _highest(columns, bins, chance[0]))
    _draw_switches(axes, run, last_step)
    style.draw_title(figure, run)
    _draw_legend(figure, run, name, style.drawn(axes, dict(zip(bins, colors))), old is not None)
    return figure


def _highest(columns: dict[str, np.ndarray], bins: Sequence[curves.Bin], chance: float) -> float:
    """Top of the loss axis: the current sequences fit; what is forgotten may leave the panel."""
    means = curves.bin_mean(columns["loss"], columns["rank"], bins)
    means = means[np.isfinite(means)]
    return 1.15 * max(float(means.max(initial=0.0)), chance)


def _last_step(run: Run, name: str) -> int:
    """Right end of the step axis: what has been seen, or the plan where nothing has."""
    seen = [int(steps[-1]) for steps in (run.sets[name]["step"], run.metrics["step"]) if len(steps)]
    seen += [entry["step"] for entry in run.switches]
    planned = run.config["train"].get("steps")
    return max(seen, default=0) or (planned if isinstance(planned, int) and planned > 0 else 1)


def _draw_curves(
    panel: Any, columns: dict, rows: slice, key: str, bins: Sequence[curves.Bin], colors: list, **look: Any
) -> None:
    step = columns["step"][rows]
    means = curves.bin_mean(columns[key][rows], columns["rank"], bins)
    marker = {"marker": "o", "markersize": 3.2} if len(step) <= style.FEW_ROWS else {}
    for index in reversed(range(len(bins))):  # the first bin on top
        panel.plot(step, style.finite(means[:, index]), color=colors[index], zorder=3, **{**marker, **look})


def _draw_limits(
    panel: Any, run: Run, name: str, key: str, bins: Sequence[curves.Bin], colors: list, last_step: int
) -> None:
    """Bayes floor or ceiling of each bin over the ranks evaluated, from the start of each phase to its end."""
    for phase, start, end in phase_spans(run, name, last_step):
        bounds = run.limits(name, phase)
        if bounds is None:
            continue
        means = curves.bin_mean(bounds[style.POSITION[key]], run.sets[name]["rank"], bins)
        for value, color in zip(means, colors):
            panel.plot([start, end], [value, value], color=color, zorder=2, **style.DOTTED)


def _draw_train_loss(panel: Any, run: Run) -> None:
    metrics = run.metrics
    for _, rows in curves.phase_segments(metrics["phase"]):
        loss = style.finite(metrics["train_loss"][rows])
        panel.plot(metrics["step"][rows], loss, color=style.GREY, linewidth=0.8, zorder=1)


def _draw_switches(axes: dict[str, Any], run: Run, last_step: int) -> None:
    """Dashed lines; a label above the top panel wherever it does not touch the one before."""
    labelled = -math.inf
    for entry in run.switches:
        for panel in axes.values():
            panel.axvline(entry["step"], color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
        if entry["step"] - labelled > 0.09 * last_step:
            place = {"xy": (entry["step"], 1.0), "xycoords": axes["loss"].get_xaxis_transform()}
            shift = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes["loss"].annotate("switch", **place, **shift, fontsize=8, color="#555555")
            labelled = entry["step"]


def _draw_legend(figure: Any, run: Run, name: str, colors: dict[curves.Bin, Any], has_old: bool) -> None:
    from matplotlib.lines import Line2D

    handles = style.bin_handles(colors)
    if has_old:
        handles.append(Line2D([], [], color=style.INK, label="current sequences", **style.SOLID))
        handles.append(Line2D([], [], color=style.INK, label="first sequences", **style.DASHED))
    for marker, event in zip(itertools.cycle(MARKERS), swap_tests(run, name)):
        label = style.cut(f"{event}: first" if has_old else event, 24)
        handles.append(Line2D([], [], color=style.INK, marker=marker, label=label, **SWAPPED))
    if any(run.limits(name, phase) is not None for phase in run.theory):
        handles.append(Line2D([], [], color=style.INK, label="Bayes limit", **style.DOTTED))
    if len(run.metrics["step"]):
        handles.append(Line2D([], [], color=style.GREY, linewidth=0.8, label="training loss"))
    handles.append(Line2D([], [], color=style.FAINT, linewidth=1.0, label="chance"))
    style.legend(figure, run, name, handles)
