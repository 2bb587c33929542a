"""The figures of `mnemo plot SWEEP`: final loss and accuracy against the settings that the runs of a sweep differ in.

Against one setting: a dot a run, a line through the means over seeds, a colour for each combination of other settings.
Against two: heat maps of the means, each at the best of other settings. Needs Matplotlib; the same runs give the same
bytes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mnemo_io
import numpy as np
import plot_run
import sweep_runs
from sweep_runs import Axis, Measure, Run

MAX_LINES = 12
MAX_WRITTEN = (9, 16)  # columns and rows of a heat map in whose cells the values are written
DECADE = 10.0  # values that span more are on a logarithmic axis
OFF_SCALE = 2.0  # times chance: a loss above it would leave no room for the others
CHARACTER, LINE = 0.078, 0.15  # inches of a label
DOT = {"linestyle": "none", "marker": "o", "markersize": 4.6, "markeredgecolor": "none", "alpha": 0.5, "zorder": 3}
MEAN = {"linewidth": 1.7, "zorder": 2.5}
BAR = {"linestyle": "none", "marker": "_", "markersize": 22.0, "markeredgewidth": 1.7, "zorder": 2.5}
EDGE = {"linestyle": "none", "markersize": 5.5, "markeredgewidth": 1.3, "clip_on": False, "zorder": 4}
BEST = {"color": "#555555", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1.5}

Cells = dict  # {(place on x, place on y): Measure}


class View(NamedTuple):
    """What of a sweep is drawn, and how it is laid out."""

    name: str  # of the sweep
    set_name: str
    first: dict[str, Any]  # a finished run, as sweep_runs.read_last gives it
    runs: list[Run]
    x: Axis
    y: Axis | None  # heat maps
    others: list[Axis]
    over: list[str]


def choose(folder: Path, options: argparse.Namespace) -> Callable[[], Any] | int:
    """What draws a sweep as the options `set`, `over`, `x`, `y` and `log` ask, or an exit code."""
    runs = sweep_runs.read_states(folder)
    known = sweep_runs.known_sets(folder, runs)
    set_name = options.set or known[0]
    if set_name not in known:
        return mnemo_io.usage_error(f"{folder} has no set {set_name!r}; it has: {', '.join(known)}")
    wanted = [key for key in (options.x, options.y) if key]
    over = [key for key in options.over or ["seed"] if key not in wanted]
    varying = sweep_runs.varying_keys(runs)
    for key in [*wanted, *over]:
        if key not in varying and key != "seed":
            return mnemo_io.usage_error(f"{key} does not vary in {folder}; {', '.join(varying) or 'nothing'} does")
    axes = sweep_runs.axes_of(runs, over) or sweep_runs.axes_of(runs)  # of seeds alone each is its own point
    axes.sort(key=lambda axis: -len(axis.values))
    if not axes:
        return mnemo_io.usage_error(f"{folder} is a sweep of one run; plot that: {folder / runs[0].name}")
    x, y = (next((axis for axis in axes if key in axis.keys), None) for key in (options.x, options.y))
    free = [axis for axis in axes if axis not in (x, y)]
    if x is None:
        y = y or (free[1] if len(free) > 1 else None)
        x = free[0]
    others = [axis for axis in axes if axis not in (x, y)]
    lines = math.prod(len(axis.values) for axis in others)
    if x == y:
        return mnemo_io.usage_error("--x and --y name settings that vary together; name another")
    if y is None and lines > MAX_LINES:
        return mnemo_io.usage_error(f"at most {MAX_LINES} lines can be told apart, got {lines}; give --y KEY, too")
    runs, first = sweep_runs.read_results(folder, runs, set_name)
    view = View(folder.resolve().name, set_name, first, runs, x, y, others, over)
    return lambda: (draw_lines if y is None else draw_maps)(view, options.log)


def _title(figure: Any, view: View, *remarks: str) -> None:
    averaged = [key for key in view.over if len({run.values.get(key) for run in view.runs}) > 1]
    if averaged and averaged[0] not in view.x.keys:
        remarks = (*remarks, f"mean over {', '.join(averaged)}")
    words = [sweep_runs.counts_text(view.runs), *remarks, *sweep_runs.common_settings(view.runs)]
    plot_run.title(figure, view.name, " · ".join(words))


# Against one setting --------------------------------------------------------------------------------------------------


def draw_lines(view: View, log: bool = False) -> Any:
    """Loss over accuracy against `view.x`."""
    figure, panels = plot_run.panels()
    axes = [view.x, *view.others]
    points = sweep_runs.points_of(view.runs, axes)
    lines = sorted({place[1:] for place in points})
    colors = dict(zip(lines, plot_run.bin_colors(len(lines))))
    positions = view.x.numbers() or list(range(len(view.x.values)))
    edges = _lay_out_x(panels["accuracy"], view.x, positions)
    top = math.inf if log else _top(view.runs)
    best = []
    for key, panel in panels.items():
        means = sweep_runs.means_of(points, key)
        for line, color in reversed(colors.items()):  # the first on top
            there = {positions[place[0]]: mean for place, mean in means.items() if place[1:] == line}
            _draw_means(panel, there, edges, color, BAR if view.x.numbers() is None else MEAN)
            for place, runs in points.items():
                if place[1:] == line:
                    _draw_runs(panel, key, positions[place[0]], runs, color, top)
        place = sweep_runs.best_place(means, key)
        panel.axvline(positions[place[0]], **BEST)
        shift = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        panel.annotate("best", (positions[place[0]], 1.0), xycoords=panel.get_xaxis_transform(), **shift,
                       fontsize=8, color=BEST["color"])  # fmt: skip
        best.append("\n".join([f"best {key} {means[place].value:.4f}", *_settings(axes, place)]))
    panels["accuracy"].set_xlabel(", ".join(view.x.keys))
    plot_run.finish_values(panels, log, 1.15 * top)
    _title(figure, view)
    handles = [_handle("\n".join(_settings(view.others, line)), color=colors[line], linewidth=2.2)
               for line in lines if line]  # fmt: skip
    handles += [_handle(" ", linestyle="none")] if handles else []
    plot_run.legend(figure, view.first, view.set_name, [*handles, *_marks(view, points, top, best)])
    return figure


def _settings(axes: Sequence[Axis], place: Sequence[int]) -> list[str]:
    """A line of a legend for each setting of a point."""
    short = sweep_runs.short_keys([key for axis in axes for key in axis.keys])
    return [
        f"{short[key]} = {value}"
        for axis, index in zip(axes, place)
        for key, value in zip(axis.keys, axis.values[index])
    ]


def _top(runs: Sequence[Run]) -> float:
    """The largest loss that is drawn where it is."""
    losses = [run.measures["loss"] for run in runs if run.measures]
    chance = max(loss.chance for loss in losses)
    return max(chance, *(loss.value for loss in losses if loss.value <= OFF_SCALE * chance), 0.0)


def _draw_means(panel: Any, means: dict[float, Measure], edges: Sequence[float], color: Any, style: dict) -> None:
    """A line's means, and their Bayes limits and chance from one edge of the panel to the other."""
    if not means:
        return
    x = list(means)
    value, limit, chance = (plot_run.finite(np.array(column)) for column in zip(*means.values()))
    panel.plot(x, value, color=color, **style)
    for level, look in ((limit, {"color": color, "zorder": 2, **plot_run.DOTTED}),
                        (chance, {"color": plot_run.FAINT, "zorder": 0.5, "linewidth": 1.0})):  # fmt: skip
        panel.plot([edges[0], *x, edges[1]], [level[0], *level, level[-1]], **look)


def _draw_runs(panel: Any, key: str, x: float, runs: Sequence[Run], color: Any, top: float) -> None:
    """A point's runs: dots, and over the loss what diverged or is off the scale."""
    values = [run.measures[key].value for run in runs if run.measures]
    if key == "accuracy":
        panel.plot([x] * len(values), values, color=color, **DOT)
        return
    inside = [value for value in values if _is_on_scale(value, top)]
    panel.plot([x] * len(inside), inside, color=color, **DOT)
    edge = {"color": color, "transform": panel.get_xaxis_transform(), **EDGE}
    if len(inside) < len(values):
        panel.plot([x], [1.0], marker="^", markeredgecolor="none", **edge)
    diverged = sum(run.state == "diverged" for run in runs)
    if diverged:
        panel.plot([x], [1.0], marker="x", **edge)
    if diverged and len(runs) > 1:
        shift = {"xytext": (5, 0), "textcoords": "offset points", "ha": "left", "va": "bottom"}
        panel.annotate(f"{diverged} of {len(runs)}", (x, 1.0), xycoords=panel.get_xaxis_transform(), **shift,
                       fontsize=7, color=BEST["color"])  # fmt: skip


def _is_on_scale(loss: float, top: float) -> bool:
    return math.isfinite(loss) and loss <= top


def _marks(view: View, points: sweep_runs.Points, top: float, best: Sequence[str]) -> list[Any]:
    """Legend entries of all but the lines."""
    losses = [run.measures["loss"] for run in view.runs if run.measures]
    ink = {"color": plot_run.INK}
    handles = [_handle("a run", **ink, **DOT)]
    if len(points) < len(losses):
        handles.append(_handle("mean", **ink, **({**BAR, "markersize": 14.0} if view.x.numbers() is None else MEAN)))
    if any(run.state == "diverged" for run in view.runs):
        handles.append(_handle("diverged", **ink, marker="x", **EDGE))
    if not all(_is_on_scale(loss.value, top) for loss in losses):
        handles.append(_handle("loss off the scale", **ink, marker="^", markeredgecolor="none", **EDGE))
    if not all(math.isnan(loss.limit) for loss in losses):
        handles.append(_handle("Bayes limit,\nunweighted mean\nover the same ranks", **ink, **plot_run.DOTTED))
    handles.append(_handle("chance", color=plot_run.FAINT, linewidth=1.0))
    return [*handles, *(_handle(text, **BEST) for text in best)]


def _handle(label: str, **style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


# Labels of settings ---------------------------------------------------------------------------------------------------


def _lay_out_x(panel: Any, axis: Axis, positions: Sequence[float]) -> tuple[float, float]:
    """Scale, ticks and labels of a horizontal axis; its ends."""
    numbers = axis.numbers()
    low, high = min(positions), max(positions)
    is_log = numbers is not None and low > 0 and high > DECADE * low
    forth, back = (np.log, np.exp) if is_log else (np.asarray, np.asarray)
    beside = 0.04 * float(forth(high) - forth(low)) if numbers is not None and high > low else 0.5
    edges = (float(back(forth(low) - beside)), float(back(forth(high) + beside)))
    panel.set_xscale("log" if is_log else "linear")
    panel.set_xlim(*edges)
    fractions = (forth(positions) - forth(edges[0])) / (forth(edges[1]) - forth(edges[0]))
    _label(panel.xaxis, axis, positions, fractions, panel)
    return edges


def _label(ticks: Any, axis: Axis, positions: Sequence[float], fractions: Sequence[float], panel: Any) -> None:
    """Names the values on a horizontal axis, as many as there is room for; words are turned where they would touch."""
    from matplotlib.ticker import NullLocator

    texts = _texts(axis)
    inches = panel.get_position().width * plot_run.SIZE_INCHES[0] * np.asarray(fractions)
    kept = _with_room(inches, [CHARACTER * max(map(len, text.split("\n"))) for text in texts])
    turned = axis.numbers() is None and not all(kept)
    if turned:
        texts = [text.replace("\n", ", ") for text in texts]
        kept = _with_room(inches, [LINE] * len(texts))
    ticks.set_minor_locator(NullLocator())
    ticks.set_ticks(positions, [text if keep else "" for text, keep in zip(texts, kept)])
    if turned:
        for label in ticks.get_ticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def _texts(axis: Axis) -> list[str]:
    """What an axis has at its values: a value alone, or a line for each setting of a zip."""
    if len(axis.keys) == 1:
        return [value for (value,) in axis.values]
    return ["\n".join(_settings([axis], [place])) for place in range(len(axis.values))]


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

    rows, columns = len(view.y.values), len(view.x.values)
    left = min(0.35, (0.5 + CHARACTER * _longest(_texts(view.y))) / plot_run.SIZE_INCHES[0])
    figure = Figure(figsize=plot_run.SIZE_INCHES, dpi=plot_run.DPI, facecolor="white")
    figure.subplots_adjust(left=left, right=0.93, top=0.83, bottom=0.19, wspace=0.2)
    points = sweep_runs.points_of(view.runs, [view.x, view.y, *view.others])
    for key, panel in zip(sweep_runs.BETTER, figure.subplots(1, 2, sharey=True)):
        cells = _cells(sweep_runs.means_of(points, key), key)
        image = _draw_map(panel, cells, key, (rows, columns), _colors(key, cells, view.runs, log))
        best = sweep_runs.best_place(cells, key)
        panel.add_patch(_frame(best))
        if columns <= MAX_WRITTEN[0] and rows <= MAX_WRITTEN[1]:
            for cell, mean in cells.items():
                remark = "" if view.others else _unfinished(points[cell])
                _write(panel, image, cell, mean.value, remark, "bold" if cell == best else "normal")
        _mark_diverged(panel, points, cells)
        panel.set_title(_heading(key, cells), loc="left", color=plot_run.INK)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set_xlabel(", ".join(view.x.keys))
        _label(panel.xaxis, view.x, range(columns), (np.arange(columns) + 0.5) / columns, panel)
    _label_rows(figure.axes[0], view.y)
    _title(figure, view, *(f"each cell at its best {', '.join(axis.keys)}" for axis in view.others))
    scored = plot_run.sampling(view.first, view.set_name)
    note = f"Unweighted mean over set {view.set_name} ({scored}); Bayes limit: of the same ranks, unweighted. "
    figure.text(0.014, 0.025, note + "Framed: the best.", va="center", fontsize=8, color=BEST["color"])
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
        plot_run.log_ticks(bar.ax.yaxis, lambda value: f"{value:g}")
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
    return image


def _longest(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.split("\n"))


def _cells(means: dict[tuple[int, ...], Measure], key: str) -> Cells:
    """The best mean at each place of the two axes."""
    cells: Cells = {}
    for place, mean in means.items():
        cell = cells.setdefault(place[:2], mean)
        cells[place[:2]] = sweep_runs.BETTER[key](cell, mean, key=lambda measure: measure.value)
    return cells


def _colors(key: str, cells: Cells, runs: Sequence[Run], log: bool) -> dict[str, Any]:
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
    return Rectangle(corner, 1, 1, fill=False, edgecolor=plot_run.INK, linewidth=2.0, clip_on=False, zorder=3)


def _unfinished(runs: Sequence[Run]) -> str:
    """`2 of 3` where not all runs of a point are finished."""
    finished = sum(bool(run.measures) for run in runs)
    return "" if finished == len(runs) else f"{finished} of {len(runs)}"


def _write(panel: Any, image: Any, cell: tuple[int, int], value: float, remark: str, weight: str) -> None:
    """A value, and below it a remark, in a cell."""
    red, green, blue, _ = image.cmap(image.norm(value))
    ink = plot_run.INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
    style = {"ha": "center", "color": ink, "xycoords": "data", "textcoords": "offset points"}
    panel.annotate(f"{value:.3f}", cell, (0, 0), va="center", fontsize=8, fontweight=weight, **style)
    panel.annotate(remark, cell, (0, -6), va="top", fontsize=7, **style)


def _mark_diverged(panel: Any, points: sweep_runs.Points, cells: Cells) -> None:
    """A cross where all that ended diverged; cells without a finished run stay white."""
    diverged = {place[:2] for place, runs in points.items() if any(run.state == "diverged" for run in runs)}
    for cell in sorted(diverged - set(cells)):
        panel.plot(*cell, marker="x", color=plot_run.GREY, markersize=6, markeredgewidth=1.3)


def _label_rows(panel: Any, axis: Axis) -> None:
    texts = _texts(axis)
    height = panel.get_position().height * plot_run.SIZE_INCHES[1]
    centres = (np.arange(len(texts)) + 0.5) / len(texts) * height
    kept = _with_room(centres, [LINE * (text.count("\n") + 1) for text in texts])
    panel.yaxis.set_ticks(range(len(texts)), [text if keep else "" for text, keep in zip(texts, kept)])
    panel.set_ylabel(", ".join(axis.keys))
