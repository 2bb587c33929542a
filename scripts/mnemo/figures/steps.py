"""The figure of a run: loss and accuracy against step, by rank bin, beside the Bayes floor and ceiling of each bin.

After a switch the sequences of the first phase are drawn too, dashed, over the same ranks: what is forgotten. Lines
mark switches, and where parts of the model were frozen, unfrozen or loaded; triangles, where a curve leaves its panel.
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
MARKERS = "DsXvPp"  # of each in turn
CHANGES = ("freeze", "unfreeze", "load")  # events that decide which weights there are, and which are trained
CHANGED = {**style.MARK, "linestyle": (0, (1, 2.2))}
BEYOND = {"linestyle": "none", "marker": "^", "markersize": 5.0, "markeredgecolor": "none", "clip_on": False}
Z_CURVE = 3
CHARACTER = 0.0087  # width of one of a label, of that of a panel


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


def changes(run: Run, last_step: int) -> dict[int, list[str]]:
    """{step: words} of the switches, and of the events of CHANGES up to a step: `freeze c_attn`, in order."""
    found = [(entry["step"], "switch") for entry in run.switches]
    for event in run.config.get("events", []):
        if event.get("kind") in CHANGES:
            words = f"{event['kind']} {', '.join(event['params'])}".removesuffix(" *")
            steps = range(event["first"], event["last"] + 1, event["every"]) if event["every"] else [event["step"]]
            found += [(step, words) for step in steps if step <= last_step]
    result: dict[int, list[str]] = {}
    for step, words in sorted(found, key=lambda change: change[0]):
        result.setdefault(step, []).append(words)
    return result


def table(run: Run, name: str, bins: Sequence[curves.Bin]) -> dict[str, list[Any]]:
    """What draw() plots: a row for each evaluation and rank bin of the set, its first sequences and swap tests.

    The Bayes floor and ceiling are those of the set's own rows.
    """
    drawn = {**swap_tests(run, name), "first sequences": first_sequences(run, name), name: run.sets[name]}
    names = ["curve", "phase", "step", "first_rank", "last_rank", "loss", "accuracy", "floor", "ceiling"]
    rows: list[tuple[Any, ...]] = []
    for curve, columns in drawn.items():
        if columns is None:
            continue
        rank, here = columns["rank"], curves.scored_bins(bins, columns["rank"])
        loss, accuracy = (curves.bin_mean(columns[key], rank, here) for key in style.POSITION)
        phases = np.unique(columns["phase"]).tolist() if curve == name else []
        limits = {phase: _bin_limits(run, name, phase, here) for phase in phases}
        for row, (phase, step) in enumerate(zip(columns["phase"].tolist(), columns["step"].tolist())):
            for index, (first, end) in enumerate(here):
                bounds = (math.nan, math.nan) if limits.get(phase) is None else limits[phase][:, index]
                rows.append((curve, phase, step, first, end - 1, loss[row, index], accuracy[row, index], *bounds))
    return dict(zip(names, zip(*rows))) if rows else {column: [] for column in names}


def _bin_limits(run: Run, name: str, phase: int, bins: Sequence[curves.Bin]) -> np.ndarray | None:
    """Bayes floor and ceiling of each bin over the ranks evaluated, (2, E); None where theory knows none."""
    bounds = run.limits(name, phase)
    return None if bounds is None else curves.bin_mean(np.stack(bounds), run.sets[name]["rank"], bins)


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
    bins = curves.scored_bins(bins, rank)
    colors = style.bin_colors(len(bins))
    last_step, chance = _last_step(run, name), curves.chance(run)
    _draw_train_loss(axes["loss"], run)
    for key, panel in axes.items():
        style.chance_line(panel, chance[style.POSITION[key]])
        _draw_limits(panel, run, name, key, bins, colors, last_step)
        if old is not None:
            _draw_curves(panel, old, slice(None), key, bins, colors, **style.DASHED)
        for rows in segments(run, name):
            _draw_curves(panel, columns, rows, key, bins, colors, **style.SOLID)
        for marker, swapped in zip(itertools.cycle(MARKERS), swap_tests(run, name).values()):
            _draw_curves(panel, swapped, slice(None), key, bins, colors, marker=marker, **SWAPPED)
    style.finish_axes(axes, (0, last_step), "step", log, _highest(columns, bins, chance[0]))
    known = style.drawn(axes, dict(zip(bins, colors)))
    leaves = _mark_beyond(axes["loss"])
    changed = changes(run, last_step)
    _draw_changes(axes, changed, last_step)
    style.draw_title(figure, run)
    _draw_legend(figure, run, name, known, old is not None, leaves)
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
        panel.plot(step, style.finite(means[:, index]), color=colors[index], zorder=Z_CURVE, **{**marker, **look})


def _draw_limits(
    panel: Any, run: Run, name: str, key: str, bins: Sequence[curves.Bin], colors: list, last_step: int
) -> None:
    """Bayes floor or ceiling of each bin over the ranks evaluated, from the start of each phase to its end."""
    for phase, start, end in phase_spans(run, name, last_step):
        limits = _bin_limits(run, name, phase, bins)
        if limits is None:
            continue
        for value, color in zip(limits[style.POSITION[key]], colors):
            panel.plot([start, end], [value, value], color=color, zorder=2, **style.DOTTED)


def _draw_train_loss(panel: Any, run: Run) -> None:
    metrics = run.metrics
    for _, rows in curves.phase_segments(metrics["phase"]):
        loss = style.finite(metrics["train_loss"][rows])
        panel.plot(metrics["step"][rows], loss, color=style.GREY, linewidth=0.8, zorder=1)


def _draw_changes(axes: dict[str, Any], changed: dict[int, list[str]], last_step: int) -> None:
    """Lines; labels above the top panel wherever they do not touch another, those of switches first."""
    taken: list[tuple[float, float]] = []
    for step, words in sorted(changed.items(), key=lambda change: "switch" not in change[1]):
        for panel in axes.values():
            panel.axvline(step, **(style.MARK if "switch" in words else CHANGED))
        text = style.cut(", ".join(words), 40)
        half = (len(text) + 0.5) * CHARACTER * last_step / 2
        if all(step + half < begin or step - half > end for begin, end in taken):
            place = {"xy": (step, 1.0), "xycoords": axes["loss"].get_xaxis_transform()}
            shift = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes["loss"].annotate(text, **place, **shift, fontsize=8, color="#555555")
            taken.append((step - half, step + half))


def _mark_beyond(panel: Any) -> bool:
    """A triangle at the top, over the first point of each stretch of a curve that is above its panel; if any is."""
    top, beside = panel.get_ylim()[1], 0.03 * np.diff(panel.get_xlim())[0]
    found = False
    for line in [line for line in panel.lines if line.get_zorder() == Z_CURVE]:
        x, y = line.get_xdata(), np.nan_to_num(line.get_ydata(), nan=-math.inf)
        above = np.flatnonzero(y > top)
        apart = (np.diff(above) > 1) & (np.diff(x[above]) > beside)
        for stretch in np.split(above, np.flatnonzero(apart) + 1):
            if len(stretch):
                panel.plot(x[stretch[0]], top, color=line.get_color(), zorder=Z_CURVE + 1, **BEYOND)
                found = True
    return found


def _draw_legend(
    figure: Any, run: Run, name: str, colors: dict[curves.Bin, Any], has_old: bool, leaves: bool
) -> None:
    handles = style.bin_handles(colors)
    if has_old:
        handles.append(style.handle("current sequences", color=style.INK, **style.SOLID))
        handles.append(style.handle("first sequences", color=style.INK, **style.DASHED))
    for marker, event in zip(itertools.cycle(MARKERS), swap_tests(run, name)):
        label = style.cut(f"{event}: first" if has_old else event, 24)
        handles.append(style.handle(label, color=style.INK, marker=marker, **SWAPPED))
    if any(run.limits(name, phase) is not None for phase in run.theory):
        handles.append(style.handle("Bayes limit", color=style.INK, **style.DOTTED))
    if len(run.metrics["step"]):
        handles.append(style.handle("training loss", color=style.GREY, linewidth=0.8))
    handles.append(style.handle("chance", **style.CHANCE))
    if leaves:
        handles.append(style.handle("above the panel", color=style.INK, **BEYOND))
    style.legend(figure, run, name, handles)
