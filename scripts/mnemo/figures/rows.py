"""A row of panels with one legend beside it: the form of the figures of `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemo import sweeps
from mnemo.expectations import Measured
from mnemo.figures import style
from mnemo.runs import Run

PANEL_INCHES, LEGEND_INCHES, HEIGHT_INCHES = 3.9, 2.1, 4.3
LEFT, TOP, BOTTOM, BETWEEN = 0.78, 0.62, 0.5, 0.8  # inches
MAX_ENTRIES = 14  # of the legend


class Drawn(NamedTuple):
    """A figure, what is plotted in it as columns by name, and the numbers that expectations are about."""

    figure: Any
    table: dict[str, list[Any]]
    measured: Mapping[str, Measured]


def panels(
    count: int,
    title: str,
    settings: str,
    sharey: bool = False,
    width: float = PANEL_INCHES,
    beside: float = LEGEND_INCHES,
) -> tuple[Any, list]:
    """An empty figure with so many panels side by side, and these; `width` of each, `beside` of the legend (inches)."""
    from matplotlib.figure import Figure

    between = 0.22 if sharey else BETWEEN
    inside = count * width + (count - 1) * between
    total = LEFT + inside + beside + 0.1
    figure = Figure(figsize=(total, HEIGHT_INCHES), dpi=style.DPI, facecolor="white")
    edges = {"left": LEFT / total, "right": (LEFT + inside) / total}
    figure.subplots_adjust(**edges, top=1 - TOP / HEIGHT_INCHES, bottom=BOTTOM / HEIGHT_INCHES, wspace=between / width)
    room = int(total * 13)
    figure.text(
        0.12 / total, 0.965, style.cut(title, room), va="center", fontsize=11, fontweight="bold", color=style.INK
    )
    figure.text(0.12 / total, 0.918, style.cut(settings, int(total * 17)), va="center", fontsize=8, color="#555555")
    return figure, list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def finish(panel: Any, x: str, y: str = "", title: str = "") -> None:
    """Labels, grid and ticks."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.set_title(title, loc="left", color=style.INK)
    style.finish_grid(panel)


def log_axis(axis: Any) -> None:
    """A logarithmic axis with a label at every decade that is not crowded; call it once all is drawn."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    style.log_ticks(axis, lambda value: f"{value:,.0f}" if 10 <= value < 1e6 else f"{value:g}")


def step_axis(panel: Any) -> None:
    """Few enough labels for five digits each."""
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def legend(figure: Any, handles: Sequence[Any], title: str = "") -> None:
    """The column beside the panels."""
    right = figure.subplotpars.right + 0.14 / figure.get_figwidth()
    figure.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=(right, 1 - TOP / HEIGHT_INCHES + 0.01), title=title,
        alignment="left", fontsize=8.5, title_fontsize=8.5, handlelength=2.0, labelspacing=0.45, borderaxespad=0.0,
        borderpad=0.0,
    )  # fmt: skip


def handle(label: str, **look: Any) -> Any:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **look)


def few(handles: Sequence[Any]) -> list[Any]:
    """As many entries as a legend has room for, evenly chosen, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(handles) - 1, min(len(handles), MAX_ENTRIES)).round().astype(int))
    return [handles[index] for index in chosen]


def chance_line(panel: Any, value: float) -> None:
    panel.axhline(value, color=style.FAINT, linewidth=1.0, zorder=0.5)


CHANCE = {"color": style.FAINT, "linewidth": 1.0}


def bayes_line(panel: Any, value: float, color: Any = style.INK) -> None:
    """A floor or a ceiling from edge to edge; nothing where it is not known."""
    if np.isfinite(value):
        panel.axhline(value, color=color, zorder=2, **style.DOTTED)


def switch_line(panel: Any, at: float) -> None:
    panel.axvline(at, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Records of equal keys as columns by name."""
    return {name: [record[name] for record in records] for name in (records[0] if records else ())}


def parameters(run: Run) -> int:
    """Trainable numbers of a run's model."""
    return int(run.facts["model"]["num_parameters"])


def common_settings(runs: Sequence[Run]) -> str:
    """What all runs say of themselves alike, but for their seed."""
    words = sweeps.common_words([sweeps.settings_words(run) for run in runs])
    return " · ".join(word for word in words if "seed" not in word)
