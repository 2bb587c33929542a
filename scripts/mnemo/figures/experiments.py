"""Figures of many runs: loss or accuracy against presentations, as lines and as points, by rank range or by model.

Each drawing is a grid of panels with one legend beside them. Solid lines are means over ranks and seeds, the band
around one is the 95 % confidence interval of the mean over seeds, dotted is the Bayes limit. Needs Matplotlib.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemo import analysis, curves
from mnemo.analysis import Curve, Model
from mnemo.curves import Bin
from mnemo.figures import style

DASHES = ("-", (0, (5.0, 1.6)), (0, (1.4, 1.2)), (0, (6.0, 1.4, 1.4, 1.4)))
AXIS_LABELS = {"loss": "loss: −log softmax (nats)", "accuracy": "accuracy"}
LIMIT_NAMES = {"loss": "Bayes floor", "accuracy": "Bayes ceiling"}
MAX_ENTRIES = 28  # of a legend
MAX_LABEL = 44
MAX_DECADES = 9  # of a logarithmic axis: what lies deeper is drawn at its edge
AT_EDGE = {"linestyle": "none", "marker": "v", "markersize": 5.0, "clip_on": False}


class Look(NamedTuple):
    """Size in inches, font in points, width of lines, whether there is a title; the least limits of each axis."""

    size: tuple[float, float]
    font: float
    line: float
    title: bool
    presentations: tuple[float, float]
    loss: tuple[float, float]
    accuracy: tuple[float, float]

    def limits(self, key: str) -> tuple[float, float]:
        return self.loss if key == "loss" else self.accuracy


class Line(NamedTuple):
    """What is drawn, and how: a line, or points where `dash` is None; low and high are empty where there is no band."""

    x: np.ndarray
    y: np.ndarray
    limit: float
    color: Any
    dash: Any = "-"
    low: np.ndarray = np.empty(0)
    high: np.ndarray = np.empty(0)


class Panel(NamedTuple):
    title: str
    lines: list[Line]


class Drawing(NamedTuple):
    """A figure: `key` is loss or accuracy, `table` what is plotted, `entries` the legend: (text, colour, dash)."""

    key: str
    title: str
    notes: str
    panels: list[Panel]
    entries: list[tuple[str, Any, Any]]
    heading: str
    table: dict[str, np.ndarray]


# What is drawn --------------------------------------------------------------------------------------------------------


def bin_text(ranks: Bin, found: Sequence[Model]) -> str:
    """`ranks 0–9`, cut to the largest K."""
    end = min(ranks[1], max(model.num_sequences for model in found))
    return curves.bin_label((ranks[0], max(end, ranks[0] + 1))).replace("-", "–")


def category_colors(count: int) -> list[Any]:
    """Colours of models or settings: without an order as long as such colours can be told apart."""
    return list(style.CATEGORIES[:count]) if count <= len(style.CATEGORIES) else style.bin_colors(count)


def lines(found: Sequence[Model], selections: Sequence[Bin], key: str, by: str) -> Drawing:
    """The mean of each selected bin in each model; colour is the bin (`by` rank) or the model, dashes the other."""
    by_model = by == "model"
    colors = category_colors(len(found) if by_model else len(selections))
    drawn, made = [], []
    for (place, model), (index, ranks) in itertools.product(enumerate(found), enumerate(selections)):
        line = analysis.curve(model, ranks, key)
        if line is not None:
            first, second = (place, index) if by_model else (index, place)
            drawn.append(_line(line, colors[first], DASHES[second % len(DASHES)]))
            made.append(line)
    labels, texts = [model.label for model in found], [bin_text(ranks, found) for ranks in selections]
    first, second = (labels, texts) if by_model else (texts, labels)
    legend = [(text, color, "-") for text, color in zip(first, colors)]
    if 1 < len(second) <= len(DASHES):
        legend += [(text, style.INK, dash) for text, dash in zip(second, DASHES)]
    return Drawing(key, "against presentations", _seeds_note(made), [Panel("", drawn)], legend,
                   "models" if by_model else "mean over", curve_table(made, key))  # fmt: skip


def scatter(found: Sequence[Model], selections: Sequence[Bin], key: str, by: str) -> Drawing:
    """Every selected rank of every run at every evaluation that is kept."""
    by_model = by == "model"
    colors = category_colors(len(found) if by_model else len(selections))
    texts = [model.label for model in found] if by_model else [bin_text(ranks, found) for ranks in selections]
    drawn, tables = [], []
    for (place, model), (index, ranks) in itertools.product(enumerate(found), enumerate(selections)):
        table = analysis.points(model, [ranks], key)
        if len(table["step"]) == 0:
            continue
        at = place if by_model else index
        limit = float(np.mean(table[f"bayes_{analysis.LIMIT[key]}"]))
        drawn.append(Line(table["presentations"], table[key], limit, colors[at], None))
        tables.append({"model": np.full(len(table["step"]), model.label, object), **table})
    columns = tables[0] if tables else {}
    table = {name: np.concatenate([entry[name] for entry in tables]) for name in columns}
    kept = {int(entry["evaluations"][0]): len(entry["rank_step"]) for model in found for entry in model.data}
    thinned = [f"{some} of {all_} evaluations" for all_, some in sorted(kept.items()) if some < all_]
    legend = [(text, color, "-") for text, color in zip(texts, colors)]
    notes = ", ".join(["a point: a sequence at an evaluation", *thinned[:2]])
    heading = "models" if by_model else "sequences"
    return Drawing(key, "of single sequences against presentations", notes, [Panel("", drawn)], legend, heading, table)


def by_range(found: Sequence[Model], ranges: Sequence[Bin], key: str) -> Drawing:
    """A panel a model, a line a rank range, dark for frequent sequences."""
    colors = dict(zip(ranges, style.bin_colors(len(ranges))))
    panels, made = [], []
    for model in found:
        drawn = [line for ranks in ranges if (line := analysis.curve(model, ranks, key)) is not None]
        shown = [_line(line, colors[line.ranks]) for line in reversed(drawn)]  # the first range on top
        panels.append(Panel(model.label if len(found) > 1 else "", shown))
        made += drawn
    present = {line.ranks for line in made}
    legend = [(bin_text(ranks, found), colors[ranks], "-") for ranks in ranges if ranks in present]
    return Drawing(key, "by rank range", _seeds_note(made), panels, legend, "mean over", curve_table(made, key))


def of_range(found: Sequence[Model], ranks: Bin, key: str) -> Drawing:
    """One rank range, a colour a model."""
    drawing = lines(found, [ranks], key, "model")
    return drawing._replace(title=f"of {bin_text(ranks, found)} by model")


def by_setting(
    found: Sequence[Model], ranges: Sequence[Bin], key: str, name: str, values: Mapping[int, Any]
) -> Drawing:
    """A panel a rank range, a line a model, a colour a value of the setting `name`; `values` by place of the model."""
    known = sorted(set(values.values()), key=lambda value: (isinstance(value, str), value))
    numbers = all(not isinstance(value, str) for value in known)
    colors = dict(zip(known, style.bin_colors(len(known)) if numbers else category_colors(len(known))))
    panels, made = [], []
    for ranks in ranges:
        drawn = []
        for place, model in enumerate(found):
            line = analysis.curve(model, ranks, key) if place in values else None
            if line is not None:
                drawn.append(_line(line, colors[values[place]]))
                made.append(line)
        if drawn:
            panels.append(Panel(bin_text(ranks, found), drawn))
    legend = [(f"{value:g}" if isinstance(value, float) else str(value), colors[value], "-") for value in known]
    title = f"by {name}, a line a model"
    return Drawing(key, title, _seeds_note(made), panels, legend, name, curve_table(made, key))


def _line(line: Curve, color: Any, dash: Any = "-") -> Line:
    band = (line.low, line.high) if line.seeds > 1 else ()
    return Line(line.x, line.y, line.limit, color, dash, *band)


def _seeds_note(made: Sequence[Curve]) -> str:
    seeds = sorted({line.seeds for line in made if line.seeds > 1})
    if not seeds:
        return ""
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"mean of {count} seeds; band: 95 % confidence interval of that mean"


def curve_table(made: Sequence[Curve], key: str) -> dict[str, np.ndarray]:
    """Lines as columns of equal length, a row a point; `scored` true ranks of a bin are in its mean."""
    limit = f"bayes_{analysis.LIMIT[key]}"
    names = ("model", "seeds", "first_rank", "last_rank", "scored", "step", "presentations", key, f"{key}_low",
             f"{key}_high", limit)  # fmt: skip
    parts: dict[str, list] = {name: [np.empty(0)] for name in names} if not made else {name: [] for name in names}
    for line in made:
        count = len(line.step)
        same = (line.model, line.seeds, line.ranks[0], line.ranks[1] - 1, line.scored)
        columns = [np.full(count, value, object if isinstance(value, str) else None) for value in same]
        columns += [line.step, line.x, line.y, line.low, line.high, np.full(count, line.limit)]
        for name, column in zip(names, columns):
            parts[name].append(column)
    return {name: np.concatenate(columns) for name, columns in parts.items()}


# How it is drawn ------------------------------------------------------------------------------------------------------


def draw(drawing: Drawing, title: str, chance: Sequence[float], look: Look) -> Any:
    """The Matplotlib figure of a drawing; `title` says of what runs, `chance` what a guess has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=look.size, facecolor="white")
    rows, columns = _grid(len(drawing.panels))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).reshape(-1)
    x_limits, y_limits = _limits(drawing, look)
    edge = False
    for panel, axes in zip(drawing.panels, grid):
        for line in panel.lines:
            edge |= _draw_line(axes, line, drawing.key, x_limits, y_limits, look)
        for value in sorted({*chance}):
            axes.axhline(value, color=style.FAINT, linewidth=1.0, zorder=0.5)
        if panel.title:
            axes.set_title(style.cut(panel.title, MAX_LABEL), loc="left", fontsize=look.font, color=style.INK)
    for axes in grid[len(drawing.panels) :]:
        axes.set_axis_off()
    _finish(figure, grid, (rows, columns, len(drawing.panels)), drawing, x_limits, y_limits, look)
    _arrange(figure, drawing, title, edge, look)
    return figure


def _grid(count: int) -> tuple[int, int]:
    columns = max(1, math.ceil(math.sqrt(count)))
    return max(1, math.ceil(count / columns)), columns


def _limits(drawing: Drawing, look: Look) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of both axes: those of the look, widened to hold all data; of loss at most some decades downwards."""
    every = [line for panel in drawing.panels for line in panel.lines]
    x = np.concatenate([line.x for line in every] or [np.ones(1)])
    y = [part for line in every for part in (line.y, [line.limit])]
    y = np.concatenate(y or [np.ones(1)])
    y = y[np.isfinite(y)]
    low, high = look.limits(drawing.key)
    x_low, x_high = look.presentations
    x_limits = (min(x_low, 0.9 * float(x.min())), max(x_high, 1.1 * float(x.max())))
    if drawing.key == "accuracy":
        beside = 0.02 * (high - low)
        return x_limits, (min(low, float(y.min(initial=low))) - beside, max(high, float(y.max(initial=high))) + beside)
    positive = y[y > 0]
    least = max(float(positive.min(initial=low)), high * 10.0**-MAX_DECADES)
    low = low if least >= low else 0.8 * least
    return x_limits, (low, high if float(y.max(initial=0.0)) <= high else 1.15 * float(y.max()))


def _draw_line(
    axes: Any, line: Line, key: str, x_limits: tuple[float, float], y_limits: tuple[float, float], look: Look
) -> bool:
    """Draws a line or points, its band and its limit; whether a loss lies below the axis and is drawn at its edge."""
    y = np.maximum(line.y, y_limits[0])
    below = line.y < y_limits[0]
    if line.dash is None:
        axes.plot(line.x, y, linestyle="none", marker="o", markersize=0.25 * look.font, markeredgewidth=0, alpha=0.45,
                  color=line.color, zorder=3, rasterized=len(y) > 2000)  # fmt: skip
    else:
        marker = {"marker": "o", "markersize": 0.4 * look.font} if len(y) <= style.FEW_ROWS else {}
        axes.plot(line.x, y, color=line.color, linestyle=line.dash, linewidth=look.line, zorder=3, **marker)
        if len(line.low):
            low, high = np.maximum(line.low, y_limits[0]), np.maximum(line.high, y_limits[0])
            axes.fill_between(line.x, low, high, color=line.color, alpha=0.18, linewidth=0, zorder=2)
    if below.any():
        axes.plot(line.x[below], y[below], color=line.color, zorder=4, **AT_EDGE)
    if np.isfinite(line.limit) and line.limit >= y_limits[0]:
        dotted = {**style.DOTTED, "linewidth": 0.6 * look.line}
        axes.plot([line.x.min(), line.x.max()], [line.limit] * 2, color=line.color, zorder=2.5, **dotted)
    return bool(below.any())


def _finish(
    figure: Any, grid: Sequence[Any], shape: tuple[int, int, int], drawing: Drawing, x_limits: Any, y_limits: Any,
    look: Look,
) -> None:  # fmt: skip
    """Scales, labels, ticks and grid of all panels."""
    rows, columns, count = shape
    for place, axes in enumerate(grid[:count]):
        axes.set_xscale("log")
        if drawing.key == "loss":
            axes.set_yscale("log")
        axes.set_xlim(*x_limits)
        axes.set_ylim(*y_limits)
        style.log_ticks(axes.xaxis, _count_text)
        if drawing.key == "loss":
            style.log_ticks(axes.yaxis, lambda value: f"{value:g}")
        if count > 1:
            axes.minorticks_off()
        if columns > 2:
            axes.xaxis.get_major_locator().set_params(numticks=4)
        axes.grid(color="#eeeeee", linewidth=0.7, zorder=0)
        axes.set_axisbelow(True)
        axes.tick_params(length=3, width=0.8, labelsize=0.9 * look.font, labelbottom=place + columns >= count)
        if place % columns == 0:
            axes.set_ylabel(AXIS_LABELS[drawing.key], fontsize=look.font)
        if place + columns >= count:
            axes.set_xlabel("presentations" if columns > 1 else "presentations (draws in training)", fontsize=look.font)


def _count_text(value: float) -> str:
    """`500`, `10k`, `2M`: a small panel has room for it."""
    for unit, word in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{word}"
    return f"{value:g}"


def _handles(drawing: Drawing, edge: bool, look: Look) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries, left_out = drawing.entries, 0
    if len(entries) > MAX_ENTRIES:
        chosen = np.unique(np.rint(np.linspace(0, len(entries) - 1, MAX_ENTRIES)).astype(int))
        entries, left_out = [entries[index] for index in chosen], len(entries) - len(chosen)
    points = any(line.dash is None for panel in drawing.panels for line in panel.lines)
    mark = {"linestyle": "none", "marker": "o", "markersize": 0.5 * look.font} if points else {}
    handles = []
    for text, color, dash in entries:
        looks = {"linewidth": 1.2 * look.line, "linestyle": dash, **mark}
        handles.append(Line2D([], [], color=color or style.INK, label=style.cut(text, MAX_LABEL), **looks))
    if left_out:
        handles.append(Line2D([], [], linestyle="none", label=f"and {left_out} between them"))
    handles.append(Line2D([], [], linestyle="none", label=" "))
    every = [line for panel in drawing.panels for line in panel.lines]
    if any(len(line.low) for line in every):
        handles.append(Patch(color=style.INK, alpha=0.18, linewidth=0, label="95 % interval over seeds"))
    if any(np.isfinite(line.limit) for line in every):
        handles.append(Line2D([], [], color=style.INK, label=LIMIT_NAMES[drawing.key], **style.DOTTED))
    if edge:
        handles.append(Line2D([], [], color=style.INK, label="below the axis (0 has no log)", **AT_EDGE))
    handles.append(Line2D([], [], color=style.FAINT, linewidth=1.0, label="chance"))
    return handles


def _arrange(figure: Any, drawing: Drawing, title: str, edge: bool, look: Look) -> None:
    """Title, legend, and margins that leave room for both, whatever they say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    width, height = look.size
    em = look.font / 72.0  # inches
    top = 3.4 * em if look.title else 1.0 * em
    top += 1.4 * em if any(panel.title for panel in drawing.panels) else 0.0
    legend = figure.legend(
        handles=_handles(drawing, edge, look), bbox_to_anchor=(0.5, 1 - top / height), title=drawing.heading,
        **{**style.LEGEND, "fontsize": 0.9 * look.font, "title_fontsize": 0.9 * look.font},
    )  # fmt: skip
    renderer = FigureCanvasAgg(figure).get_renderer()
    needed = legend.get_window_extent(renderer).width / figure.dpi + 1.2 * em
    right = max(0.4, 1 - needed / width)
    legend.set_bbox_to_anchor((right + 0.6 * em / width, 1 - top / height))
    rows, columns = _grid(len(drawing.panels))
    figure.subplots_adjust(
        left=5.2 * em / width, right=right, top=1 - top / height, bottom=3.6 * em / height,
        wspace=2.4 * em * columns / (right * width - 5.2 * em), hspace=2.4 * em * rows / (height - top - 3.6 * em),
    )  # fmt: skip
    if look.title:
        head = f"{title}: {drawing.key} {drawing.title}"
        lines = ((1.1, 1.15, style.INK, head), (2.5, 0.85, "#555555", drawing.notes))
        for down, size, color, text in lines:
            words = style.cut(text, int(width / (0.58 * size * em)))
            weight = "bold" if size > 1 else "normal"
            place = (0.5 * em / width, 1 - down * em / height)
            figure.text(*place, words, va="center", fontsize=size * look.font, fontweight=weight, color=color)
