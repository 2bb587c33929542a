"""The figures of `mnemo plot SWEEP`: final loss and accuracy against the settings that the runs of a sweep differ in.

Against one setting: a dot a run, a line through the means over seeds, a colour for each combination of other settings.
Against two: heat maps of the means, each at the best of other settings. Needs Matplotlib; the same runs give the same
bytes.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemo import sweeps
from mnemo.errors import UsageError
from mnemo.figures import style
from mnemo.runs import Run
from mnemo.sweeps import Axis, Measure, Outcome

MAX_LINES = 12
MAX_WRITTEN = (9, 16)  # columns and rows of a heat map in whose cells the values are written
DECADE = 10.0  # values that span more are on a logarithmic axis
OFF_SCALE = 2.0  # times chance: a loss above it would leave no room for the others
CHARACTER, LINE = 0.078, 0.15  # inches of a label
MAX_LABEL = 21  # characters
DOT = {"linestyle": "none", "marker": "o", "markersize": 4.6, "markeredgecolor": "none", "alpha": 0.5, "zorder": 3}
MEAN = {"linewidth": 1.7, "zorder": 2.5}
BAR = {"linestyle": "none", "marker": "_", "markersize": 22.0, "markeredgewidth": 1.7, "zorder": 2.5}
EDGE = {"linestyle": "none", "markersize": 5.5, "clip_on": False, "zorder": 4}
OFF = {"marker": "^", "markeredgecolor": "none"}
BEST = style.MARK

Cells = dict  # {(place on x, place on y): Measure}


class View(NamedTuple):
    """What of a sweep is drawn, and how it is laid out."""

    name: str  # of the sweep
    set_name: str
    first: Run  # a finished run, as sweeps.read_last gives it
    runs: list[Outcome]
    x: Axis
    y: Axis | None  # heat maps
    others: list[Axis]
    over: list[str]  # settings of which the mean is taken

    def is_line(self) -> bool:
        """Whether there is something between the values of x."""
        return self.x.numbers() is not None and "seed" not in self.x.keys


def choose(folder: Path, options: argparse.Namespace) -> Callable[[], tuple[Any, dict]]:
    """What gives the figure of a sweep as the options `set`, `over`, `x`, `y` and `log` ask, and the table of its runs.

    UsageError where that cannot be.
    """
    runs = sweeps.read_states(folder)
    known = sweeps.known_sets(folder, runs)
    set_name = options.set or known[0]
    if set_name not in known:
        raise UsageError(f"{folder} has no set {set_name!r}; it has: {', '.join(known)}")
    wanted = [key for key in (options.x, options.y) if key]
    over = [key for key in options.over or ["seed"] if key not in wanted]
    varying = sweeps.varying_keys(runs)
    for key in wanted + [key for key in over if key != "seed"]:
        if key not in varying:
            raise UsageError(f"{key} does not vary in {folder}; {', '.join(varying) or 'nothing'} does")
    if set(varying) <= set(over):  # of seeds alone each is its own point
        over = []
    axes = sweeps.axes_of(runs, over)
    if not axes:
        raise UsageError(f"{folder} is a sweep of one run; plot that: {folder / runs[0].name}")
    x, y, others = _arrange(axes, options.x, options.y)
    if x is None:
        raise UsageError(f"beside {options.y} no other setting varies that --x could name")
    lines = math.prod(len(axis.values) for axis in others)
    if y is None and lines > MAX_LINES:
        raise UsageError(f"at most {MAX_LINES} lines can be told apart, got {lines}; give --y KEY, too")
    runs, first = sweeps.read_results(folder, runs, set_name)
    means = [key for key in over if key in varying]
    view = View(folder.resolve().name, set_name, first, runs, x, y, others, means)
    return lambda: ((draw_maps if y else draw_lines)(view, options.log), table(view))


def table(view: View) -> dict[str, list[Any]]:
    """A row a run: what it varies, its state, and where it is finished its measures beside the Bayes limits."""
    keys = [key for axis in (view.x, view.y, *view.others) if axis for key in axis.keys]
    keys += [key for key in view.over if key not in keys]
    result: dict[str, list[Any]] = {"run": [run.name for run in view.runs]}
    result.update({key: [run.values.get(key, "") for run in view.runs] for key in keys})
    result["state"] = [run.state for run in view.runs]
    for key, limit in (("loss", "floor"), ("accuracy", "ceiling")):
        measures = [run.measures.get(key) for run in view.runs]
        result[key] = [measure.value if measure else math.nan for measure in measures]
        result[limit] = [measure.limit if measure else math.nan for measure in measures]
    return result


def _arrange(axes: Sequence[Axis], x_key: str | None, y_key: str | None) -> tuple[Axis | None, Axis | None, list[Axis]]:
    """The axes along x and y, and the others; without keys those with most values.

    x is None where no axis is left for it, y where there is no second one or only x is named.
    """
    x, y = (next((axis for axis in axes if key in axis.keys), None) for key in (x_key, y_key))
    free = sorted((axis for axis in axes if axis not in (x, y)), key=lambda axis: -len(axis.values))
    if x is None and free:
        x = free.pop(0)
        y = y or (free.pop(0) if free else None)
    return (None if x == y else x), y, free


def _title(figure: Any, view: View, *remarks: str) -> None:
    if view.over:
        remarks = (*remarks, f"mean over {', '.join(view.over)}")
    words = [sweeps.counts_text(view.runs), *remarks, *sweeps.common_settings(view.runs)]
    style.title(figure, view.name, " · ".join(words))


# Against one setting --------------------------------------------------------------------------------------------------


def draw_lines(view: View, log: bool = False) -> Any:
    """Loss over accuracy against `view.x`."""
    figure, panels = style.panels()
    axes = [view.x, *view.others]
    points = sweeps.points_of(view.runs, axes)
    lines = sorted({place[1:] for place in points})
    colors = dict(zip(lines, style.bin_colors(len(lines))))
    positions = view.x.numbers() or list(range(len(view.x.values)))
    _lay_out_x(panels["accuracy"], view.x, positions)
    top = math.inf if log else _top(view.runs)
    has_means = any(len(runs) > 1 for runs in points.values())
    look = MEAN if view.is_line() else BAR if has_means else None
    for line, color in reversed(colors.items()):  # the first on top
        here = {positions[place[0]]: runs for place, runs in points.items() if place[1:] == line}
        for key, panel in panels.items():
            _draw_line(panel, key, here, color, look, top)
    if len(lines) == 1 and len(positions) <= MAX_WRITTEN[0]:
        _count_diverged(panels["loss"], here)
    best = []
    for key, panel in panels.items():
        means = sweeps.means_of(points, key)
        place = sweeps.best_place(means, key)
        panel.axvline(positions[place[0]], **BEST)
        _note(panel, positions[place[0]], "best", (0, 3), ha="center", fontsize=8)
        best.append(_narrow([f"best {key} {means[place].value:.4f}", *_settings(axes, place)]))
    style.finish_values(panels, log, 1.15 * top)
    _title(figure, view)
    handles = [style.handle(_narrow(_settings(view.others, line)), color=colors[line], linewidth=2.2)
               for line in lines if line]  # fmt: skip
    handles += [style.handle(" ", linestyle="none")] if handles else []
    style.legend(figure, view.first, view.set_name, [*handles, *_marks(view, points, top, best)])
    return figure


def _settings(axes: Sequence[Axis], place: Sequence[int]) -> list[str]:
    """A line for each setting of a point."""
    short = sweeps.short_keys([key for axis in axes for key in axis.keys])
    return [
        f"{short[key]} = {value}"
        for axis, index in zip(axes, place)
        for key, value in zip(axis.keys, axis.values[index])
    ]


def _narrow(lines: Sequence[str]) -> str:
    """Text for the legend, whose column is narrow."""
    return "\n".join(part for line in lines for part in textwrap.wrap(line, MAX_LABEL, break_on_hyphens=False))


def _top(runs: Sequence[Outcome]) -> float:
    """The largest loss that is drawn where it is."""
    losses = [run.measures["loss"] for run in runs if run.measures]
    chance = max(loss.chance for loss in losses)
    return max(chance, *(loss.value for loss in losses if loss.value <= OFF_SCALE * chance), 0.0)


def _draw_line(panel: Any, key: str, points: dict[float, list[Outcome]], color: Any, look: Any, top: float) -> None:
    """The runs of one combination of other settings by x: limits, means in a look unless it is None, and dots."""
    means = sweeps.means_of(points, key)
    if means:
        low, high = panel.get_xlim()
        value, limit, chance = zip(*means.values())
        x = [low, *means, high]  # levels go from edge to edge
        panel.plot(x, [limit[0], *limit, limit[-1]], color=color, zorder=2, **style.DOTTED)
        panel.plot(x, [chance[0], *chance, chance[-1]], zorder=0.5, **style.CHANCE)
        if look:
            shown = [mean if key == "accuracy" or _is_on_scale(mean, top) else np.nan for mean in value]
            panel.plot(list(means), shown, color=color, **look)
    for at, runs in points.items():
        _draw_runs(panel, key, at, runs, color, top)


def _draw_runs(panel: Any, key: str, x: float, runs: Sequence[Outcome], color: Any, top: float) -> None:
    """A point's runs: dots, and over the loss what diverged or is off the scale."""
    values = [run.measures[key].value for run in runs if run.measures]
    inside = [value for value in values if key == "accuracy" or _is_on_scale(value, top)]
    panel.plot([x] * len(inside), inside, color=color, **DOT)
    edge = {"color": color, "transform": panel.get_xaxis_transform(), **EDGE}
    if len(inside) < len(values):
        panel.plot([x], [0.965], **edge, **OFF)
    if key == "loss" and _diverged(runs):
        panel.plot([x], [1.0], marker="x", **edge)


def _diverged(runs: Sequence[Outcome]) -> int:
    return sum(run.state == "diverged" for run in runs)


def _count_diverged(panel: Any, points: dict[float, list[Outcome]]) -> None:
    """`2 of 3` beside the mark of what diverged."""
    for x, runs in points.items():
        if _diverged(runs) and len(runs) > 1:
            _note(panel, x, f"{_diverged(runs)} of {len(runs)}", (-5, 0), ha="right", fontsize=7)


def _note(panel: Any, x: float, text: str, shift: tuple[float, float], **look: Any) -> None:
    """A text over the top edge of a panel, shifted by so many points."""
    panel.annotate(text, (x, 1.0), shift, xycoords=panel.get_xaxis_transform(), textcoords="offset points",
                   va="bottom", color=BEST["color"], **look)  # fmt: skip


def _is_on_scale(loss: float, top: float) -> bool:
    return math.isfinite(loss) and loss <= top


def _marks(view: View, points: sweeps.Points, top: float, best: Sequence[str]) -> list[Any]:
    """Legend entries of all but the lines."""
    losses = [run.measures["loss"] for run in view.runs if run.measures]
    ink = {"color": style.INK}
    handles = [style.handle("a run", **ink, **DOT)]
    if any(len(runs) > 1 for runs in points.values()):
        handles.append(style.handle("mean", **ink, **(MEAN if view.is_line() else {**BAR, "markersize": 14.0})))
    if _diverged(view.runs):
        handles.append(style.handle("diverged", **ink, marker="x", **EDGE))
    if not all(_is_on_scale(loss.value, top) for loss in losses):
        handles.append(style.handle("loss off the scale", **ink, **OFF, **EDGE))
    if not all(math.isnan(loss.limit) for loss in losses):
        handles.append(style.handle("Bayes limit,\nunweighted mean\nover the same ranks", **ink, **style.DOTTED))
    handles.append(style.handle("chance", **style.CHANCE))
    return [*handles, *(style.handle(text, **BEST) for text in best)]


# Labels of settings ---------------------------------------------------------------------------------------------------


def _lay_out_x(panel: Any, axis: Axis, positions: Sequence[float]) -> None:
    """Scale, ticks and labels of a horizontal axis."""
    numbers = axis.numbers()
    low, high = min(positions), max(positions)
    is_log = numbers is not None and low > 0 and high > DECADE * low
    forth, back = (np.log, np.exp) if is_log else (np.asarray, np.asarray)
    beside = 0.04 * float(forth(high) - forth(low)) if numbers is not None and high > low else 0.5
    edges = (float(back(forth(low) - beside)), float(back(forth(high) + beside)))
    panel.set_xscale("log" if is_log else "linear")
    panel.set_xlim(*edges)
    fractions = (forth(positions) - forth(edges[0])) / (forth(edges[1]) - forth(edges[0]))
    _label_x([panel], axis, positions, fractions)


def _label_x(panels: Sequence[Any], axis: Axis, positions: Sequence[float], fractions: Sequence[float]) -> None:
    """Names the values on horizontal axes, as many as there is room for, and makes room below for them.

    Numbers that would touch are left out; words are turned.
    """
    from matplotlib.ticker import NullLocator

    texts = _texts(axis)
    figure, (width, height) = panels[0].figure, style.SIZE_INCHES
    inches = panels[0].get_position().width * width * np.asarray(fractions)
    kept = _with_room(inches, [CHARACTER * _longest([text]) for text in texts])
    is_turned = axis.numbers() is None and not all(kept)
    if is_turned:
        texts = [text.replace("\n", ", ") for text in texts]
        kept = _with_room(inches, [LINE] * len(texts))
    for panel in panels:
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks(positions, [text if keep else "" for text, keep in zip(texts, kept)])
        panel.tick_params(axis="x", labelrotation=90 if is_turned else 0)
        panel.set_xlabel(_name(axis))
    below = CHARACTER * _longest(texts) if is_turned else LINE * (1 + max(text.count("\n") for text in texts))
    figure.subplots_adjust(bottom=figure.subplotpars.bottom + (below - LINE) / height)


def _name(axis: Axis) -> str:
    """What is written beside an axis; nothing for a zip, whose values say it."""
    return axis.keys[0] if len(axis.keys) == 1 else ""


def _longest(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.split("\n"))


def _texts(axis: Axis) -> list[str]:
    """What an axis has at its values: a value alone, or a line for each setting of a zip."""
    if len(axis.keys) == 1:
        return [style.cut(value, MAX_LABEL) for (value,) in axis.values]
    return [
        "\n".join(style.cut(line, MAX_LABEL) for line in _settings([axis], [place]))
        for place in range(len(axis.values))
    ]


def _with_room(centres: Sequence[float], widths: Sequence[float]) -> list[bool]:
    """Which of some labels can be shown, from the left, so that none touches another; all in inches."""
    kept, end = [], -math.inf
    for centre, width in zip(centres, widths):
        kept.append(centre - width / 2 > end + 0.06)
        end = centre + width / 2 if kept[-1] else end
    return kept


# Against two settings -------------------------------------------------------------------------------------------------


def draw_maps(view: View, log: bool = False) -> Any:
    """Heat maps of loss and accuracy, side by side, over `view.x` and `view.y`."""
    from matplotlib.figure import Figure

    shape = rows, columns = len(view.y.values), len(view.x.values)
    left = (0.5 + CHARACTER * _longest(_texts(view.y))) / style.SIZE_INCHES[0]
    figure = Figure(figsize=style.SIZE_INCHES, dpi=style.DPI, facecolor="white")
    figure.subplots_adjust(left=left, right=0.93, top=0.845, bottom=0.165, wspace=0.2)
    panels = dict(zip(sweeps.BETTER, figure.subplots(1, 2, sharey=True)))
    axes = [view.x, view.y, *view.others]
    points = sweeps.points_of(view.runs, axes)
    framed = []
    for key, panel in panels.items():
        means = sweeps.means_of(points, key)
        cells = _cells(means, key)
        image = _draw_map(panel, cells, key, shape, _colors(key, cells, view.runs, log))
        best = sweeps.best_place(means, key)
        panel.add_patch(_frame(best[:2]))
        framed.append(f"{key} {means[best].value:.4f} at {', '.join(_settings(axes, best))}")
        if columns <= MAX_WRITTEN[0] and rows <= MAX_WRITTEN[1]:
            for cell, mean in cells.items():
                remark = "" if view.others else _unfinished(points[cell])
                _write(panel, image, cell, mean.value, remark, "bold" if cell == best[:2] else "normal")
        _mark_diverged(panel, points, cells, columns)
        panel.set_title(_heading(key, cells), loc="left", color=style.INK)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    _label_x(list(panels.values()), view.x, range(columns), (np.arange(columns) + 0.5) / columns)
    _label_rows(panels["loss"], view.y)
    _title(figure, view, *(f"each cell at its best {', '.join(axis.keys)}" for axis in view.others))
    scored = style.sampling(view.first, view.set_name)
    notes = [style.cut(f"Best, framed: {'; '.join(framed)}", 130)]
    notes += [f"Unweighted means over set {view.set_name} ({scored}); Bayes limit: of the same ranks, unweighted too"]
    figure.text(0.014, 0.014, "\n".join(notes), va="bottom", fontsize=8, color=BEST["color"])
    return figure


def _draw_map(panel: Any, cells: Cells, key: str, shape: tuple[int, int], colors: dict[str, Any]) -> Any:
    """The image of one panel, with its colour bar."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    values = np.full(shape, np.nan)
    for (x, y), mean in cells.items():
        values[y, x] = mean.value
    image = panel.imshow(values, origin="lower", aspect="auto", **colors)
    over = key == "loss" and np.nanmax(values) > image.norm.vmax
    bar = panel.figure.colorbar(image, ax=panel, fraction=0.06, pad=0.03, extend="max" if over else "neither")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=3, width=0.8, labelsize=8)
    if isinstance(image.norm, LogNorm):
        style.log_ticks(bar.ax.yaxis, lambda value: f"{value:g}")
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
    return image


def _cells(means: dict[tuple[int, ...], Measure], key: str) -> Cells:
    """The best mean at each place of the two axes."""
    cells: Cells = {}
    for place, mean in means.items():
        cell = cells.setdefault(place[:2], mean)
        cells[place[:2]] = sweeps.BETTER[key](cell, mean, key=lambda measure: measure.value)
    return cells


def _colors(key: str, cells: Cells, runs: Sequence[Outcome], log: bool) -> dict[str, Any]:
    """Bright is good; a loss off the scale has the darkest colour."""
    from matplotlib.colors import LogNorm, Normalize

    values = [mean.value for mean in cells.values() if math.isfinite(mean.value)]
    if key == "accuracy":
        return {"cmap": "viridis", "norm": Normalize(min(values), max(values))}
    top = _top(runs)
    values = [value for value in values if log or value <= top] or [top]
    return {"cmap": "viridis_r", "norm": (LogNorm if log and min(values) > 0 else Normalize)(min(values), max(values))}


def _heading(key: str, cells: Cells) -> str:
    limits = [mean.limit for mean in cells.values() if math.isfinite(mean.limit)]
    bounds = dict.fromkeys(f"{limit:.3f}" for limit in (min(limits), max(limits))) if limits else {}
    name = "loss (nats)" if key == "loss" else key
    return f"{name},  Bayes limit {'–'.join(bounds)}" if bounds else name


def _frame(cell: tuple[int, int]) -> Any:
    from matplotlib.patches import Rectangle

    corner = (cell[0] - 0.5, cell[1] - 0.5)
    return Rectangle(corner, 1, 1, fill=False, edgecolor=style.INK, linewidth=2.0, clip_on=False, zorder=3)


def _unfinished(runs: Sequence[Outcome]) -> str:
    """`2 of 3` where not all runs of a point are finished."""
    finished = sum(bool(run.measures) for run in runs)
    return "" if finished == len(runs) else f"{finished} of {len(runs)}"


def _write(panel: Any, image: Any, cell: tuple[int, int], value: float, remark: str, weight: str) -> None:
    """A value, and below it a remark, in a cell."""
    red, green, blue, _ = image.cmap(image.norm(value))
    ink = style.INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
    look = {"ha": "center", "color": ink, "xycoords": "data", "textcoords": "offset points"}
    panel.annotate(f"{value:.3f}", cell, (0, 0), va="center", fontsize=8, fontweight=weight, **look)
    panel.annotate(remark, cell, (0, -6), va="top", fontsize=7, **look)


def _mark_diverged(panel: Any, points: sweeps.Points, cells: Cells, columns: int) -> None:
    """A cross where all that ended diverged; cells without a finished run stay white."""
    diverged = {place[:2] for place, runs in points.items() if _diverged(runs)}
    size = min(6.0, 120.0 / columns)  # points: half a cell
    for cell in sorted(diverged - set(cells)):
        panel.plot(*cell, marker="x", color=style.GREY, markersize=size)


def _label_rows(panel: Any, axis: Axis) -> None:
    texts = _texts(axis)
    height = panel.get_position().height * style.SIZE_INCHES[1]
    centres = (np.arange(len(texts)) + 0.5) / len(texts) * height
    kept = _with_room(centres, [LINE * (text.count("\n") + 1) for text in texts])
    panel.yaxis.set_ticks(range(len(texts)), [text if keep else "" for text, keep in zip(texts, kept)])
    panel.set_ylabel(_name(axis))
