"""The figure of `mnemo plot --by-position`: loss and accuracy by rank bin against the position of the predicted bit.

Solid: the last evaluation while the set's phase was current; dashed: the last of the run, where a switch came between;
dotted: the Bayes predictor. Needs Matplotlib; the same run gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import curves
import mnemo_io
import numpy as np
import plot_run

LIMITS = {"loss": "floor_by_position", "accuracy": "ceiling_by_position"}  # in run["theory"]


def default_set(run: dict[str, Any]) -> str:
    """The sequences of the last phase, else the first set that was scored by position; ValueError without any."""
    names = list(run["by_position"])
    if not names:
        raise ValueError(f"{run['path']}: nothing was scored by position (train with eval.by_position=true)")
    return f"phase_{len(run['switches'])}" if f"phase_{len(run['switches'])}" in names else names[0]


def rows_of(run: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    """{row: style} of the evaluations to draw: while the phase was current on top."""
    columns, phase = run["by_position"][name], mnemo_io.set_phase(name, len(run["switches"]))
    last = len(columns["step"]) - 1
    _, before, end = (None, last, last) if phase is None else curves.moments(columns, phase, run["switches"])
    return {row: style for row, style in ((end, plot_run.DASHED), (before, plot_run.SOLID)) if row is not None}


def draw(run: dict[str, Any], name: str, log: bool = False) -> Any:
    """The figure of one set of `run["by_position"]`."""
    from matplotlib.lines import Line2D

    columns, rows = run["by_position"][name], rows_of(run, name)
    position, chance = columns["position"], curves.chance(run)
    theory = run["theory"].get(mnemo_io.set_phase(name, len(run["switches"])), {})
    bins = [tuple(ranks) for ranks in columns["bins"].tolist()]
    colors = dict(zip(bins, plot_run.bin_colors(len(bins))))
    marker = {"marker": "o", "markersize": 3.2} if len(position) <= plot_run.FEW_ROWS else {}
    figure, axes = plot_run.panels()
    for key, panel in axes.items():
        limit = theory.get(LIMITS[key], np.empty(0))
        panel.axhline(chance[plot_run.POSITION[key]], color=plot_run.FAINT, linewidth=1.0, zorder=0.5)
        for index, color in reversed(list(enumerate(colors.values()))):  # the first bin on top
            if limit.shape == columns[key].shape[1:]:
                panel.plot(position, plot_run.finite(limit[index]), color=color, zorder=2, **plot_run.DOTTED)
            for row, style in rows.items():
                values = plot_run.finite(columns[key][row, index])
                panel.plot(position, values, color=color, zorder=3, **{**marker, **style})
    highest = max([chance[0], *(np.nan_to_num(columns["loss"][row], posinf=0.0).max(initial=0.0) for row in rows)])
    plot_run.finish_axes(
        axes, (int(position[0]), int(position[-1])), "position of the predicted bit", log, 1.15 * highest
    )
    plot_run.draw_title(figure, run)
    handles = plot_run.bin_handles(plot_run.drawn(axes, colors))
    steps = {f"step {columns['step'][row]:,}": style for row, style in reversed(rows.items())}
    handles += [Line2D([], [], color=plot_run.INK, label=label, **style) for label, style in steps.items()]
    if any(limit in theory for limit in LIMITS.values()):
        handles.append(Line2D([], [], color=plot_run.INK, label="Bayes limit, all ranks", **plot_run.DOTTED))
    handles.append(Line2D([], [], color=plot_run.FAINT, linewidth=1.0, label="chance"))
    plot_run.legend(figure, run, name, handles)
    return figure
