"""The figure of `mnemo compare`: accuracy against presentations by rank bin, one member over the other, with ceilings.

A panel a phase; colour is the rank bin, the dash pattern the member, each seed its own line; dotted: the Bayes ceiling.
Needs Matplotlib; the same runs give the same bytes.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import curves, members
from mnemo.errors import DataError
from mnemo.figures import style
from mnemo.runs import Run

MAX_PANELS = 3
DASHES = ((), (5.0, 1.8), (1.6, 1.2), (6.0, 1.4, 1.4, 1.4))  # as many members as can be told apart
LEGEND_INCHES = 2.3
Z_CURVE, Z_CEILING = 3, 2


def draw_to(output: Path, compared: Sequence[members.Member], edges: Sequence[int] | None) -> None:
    """Draws members into a file, in one move.

    Raises
    ------
    DataError
        More members than there are dash patterns.
    """
    if len(compared) > len(DASHES):
        raise DataError(f"a figure tells at most {len(DASHES)} members apart, got {len(compared)}; name fewer runs")
    scope = members.scope_of(members.all_runs(compared), edges)
    with style.matplotlib_style():
        figure = draw([member.name for member in compared], [member.runs for member in compared], scope)
        style.save(figure, output, members.all_runs(compared))


def draw(names: Sequence[str], runs: Sequence[Sequence[Run]], scope: members.Scope) -> Any:
    """The figure: `runs[i]` are the seeds of member i."""
    from matplotlib.figure import Figure

    count = min(MAX_PANELS, max(len(curves.phases(run)) for seeds in runs for run in seeds))
    width = 4.6 * count + LEGEND_INCHES
    figure = Figure(figsize=(width, 4.6), dpi=style.DPI, facecolor="white")
    figure.subplots_adjust(left=0.62 / width, right=1 - LEGEND_INCHES / width, top=0.9, bottom=0.12, wspace=0.06)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    bins = sorted({ranks for phase in scope.bins.values() for ranks in phase})
    colors = dict(zip(bins, style.bin_colors(len(bins))))
    drawn: set[curves.Bin] = set()
    for phase, panel in enumerate(panels):
        for chance in sorted({curves.chance(run)[1] for seeds in runs for run in seeds}):
            panel.axhline(chance, color=style.FAINT, linewidth=1.0, zorder=0.5)
        for seeds, dashes in zip(runs, DASHES):
            for run in seeds:
                drawn |= _draw_run(panel, run, phase, scope, colors, dashes, 1.7 if len(seeds) == 1 else 1.0)
        _finish(panel, "first sequences" if phase == 0 else f"after switch {phase}")
    panels[0].set_ylabel("accuracy")
    _legend(figure, names, {ranks: colors[ranks] for ranks in bins if ranks in drawn}, panels,
            1 - (LEGEND_INCHES - 0.06) / width)  # fmt: skip
    return figure


def _draw_run(
    panel: Any, run: Run, phase: int, scope: members.Scope, colors: dict, dashes: tuple, linewidth: float
) -> set[curves.Bin]:
    """Draws the bins of a phase that were presented, and returns them."""
    drawn: set[curves.Bin] = set()
    columns = curves.phase_columns(run.sets, phase, scope.ranks.get(phase))
    if columns is None:
        return drawn
    bins = scope.bins[phase]
    presentations, accuracy = curves.bin_curves(run, scope.ranks, scope.bins)[phase]
    limit = curves.limits(run.theory, columns["rank"], phase)[1]
    ceiling = np.full(len(bins), np.nan) if limit is None else curves.bin_mean(limit, columns["rank"], bins)
    for index, ranks in enumerate(bins):
        seen = presentations[:, index] > 0
        if not seen.any():
            continue
        drawn.add(ranks)
        x, color = presentations[seen, index], colors[ranks]
        look = {"linestyle": (0, dashes) if dashes else "-", "dash_capstyle": "butt"}
        marker = {"marker": "o", "markersize": 3.2} if len(x) <= style.FEW_ROWS else {}
        panel.plot(x, accuracy[seen, index], color=color, linewidth=linewidth, zorder=Z_CURVE, **look, **marker)
        if limit is not None:
            panel.plot(x[[0, -1]], ceiling[[index, index]], color=color, zorder=Z_CEILING, **style.DOTTED)
    return drawn


def _finish(panel: Any, title: str) -> None:
    panel.set_xscale("log")
    style.log_ticks(panel.xaxis, lambda value: f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:g}")
    panel.set_xlabel("presentations (mean over the ranks of a bin)")
    panel.set_title(title, loc="left", color=style.INK)
    low, _ = panel.get_ylim()
    panel.set_ylim(min(low, 0.475), 1.01)
    panel.grid(axis="y", color="#eeeeee", linewidth=0.7, zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(length=3, width=0.8)


def _legend(
    figure: Any, names: Sequence[str], colors: dict[curves.Bin, Any], panels: Sequence[Any], left: float
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=style.INK, linewidth=1.7, linestyle=(0, dashes) if dashes else "-", label=cut(name))
        for name, dashes in zip(names, DASHES)
    ]
    handles.append(Line2D([], [], linestyle="none", label=" "))
    handles += style.bin_handles(colors)
    if any(line.get_zorder() == Z_CEILING for panel in panels for line in panel.lines):
        handles.append(Line2D([], [], color=style.INK, label="Bayes ceiling", **style.DOTTED))
    handles.append(Line2D([], [], color=style.FAINT, linewidth=1.0, label="chance"))
    figure.legend(handles=handles, bbox_to_anchor=(left, 0.905), **{**style.LEGEND, "handlelength": 2.4})


def cut(name: str, length: int = 24) -> str:
    """A name that fits the legend: a line a directory, of whose name the end tells more than the start."""
    name, bracket, state = os.fsencode(name).decode("utf-8", "replace").partition(" (")  # what is no text is not drawn
    name = "/\n".join(part if len(part) <= length else "..." + part[-length + 3 :] for part in name.split("/"))
    return "\n".join([name, *textwrap.wrap(f"({state}", length)]) if bracket else name
