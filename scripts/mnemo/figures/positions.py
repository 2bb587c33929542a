"""The figure of `mnemo plot --by-position`: loss and accuracy by rank bin against the position of the predicted bit.

Solid: the last evaluation while the set's phase was current; dashed: the last of the run, where a switch came between;
dotted: the Bayes predictor. Needs Matplotlib; the same run gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mnemo import curves
from mnemo.errors import DataError
from mnemo.figures import style
from mnemo.runs import Run, set_phase

LIMITS = {"loss": "floor_by_position", "accuracy": "ceiling_by_position"}  # in Run.theory


def default_set(run: Run) -> str:
    """The sequences of the last phase, else the first set that was scored by position; DataError without any."""
    names = list(run.by_position)
    if not names:
        raise DataError(f"{run.path}: nothing was scored by position (train with eval.by_position=true)")
    return f"phase_{len(run.switches)}" if f"phase_{len(run.switches)}" in names else names[0]


def rows_of(run: Run, name: str) -> dict[int, dict[str, Any]]:
    """{row: look} of the evaluations to draw: while the phase was current on top."""
    columns, phase = run.by_position[name], set_phase(name, len(run.switches))
    last = len(columns["step"]) - 1
    _, before, end = (None, last, last) if phase is None else curves.moments(columns, phase, run.switches)
    return {row: look for row, look in ((end, style.DASHED), (before, style.SOLID)) if row is not None}


def _limits(run: Run, name: str) -> dict[str, np.ndarray]:
    """What the Bayes predictor has in place of a measure, by rank bin and position, where that is known."""
    theory, shape = run.theory.get(set_phase(name, len(run.switches)), {}), run.by_position[name]["loss"].shape[1:]
    return {key: theory[limit] for key, limit in LIMITS.items() if limit in theory and theory[limit].shape == shape}


def table(run: Run, name: str) -> dict[str, list[Any]]:
    """What draw() plots: a row for each evaluation drawn, rank bin and position."""
    columns, known = run.by_position[name], _limits(run, name)
    limits = [known.get(key, np.full(columns[key].shape[1:], np.nan)) for key in style.POSITION]
    rows = []
    for row in reversed(rows_of(run, name)):
        values = [*(columns[key][row] for key in style.POSITION), *limits]
        for index, (first, end) in enumerate(columns["bins"].tolist()):
            for place, position in enumerate(columns["position"]):
                rows.append((columns["step"][row], first, end - 1, position, *(of[index, place] for of in values)))
    names = ("step", "first_rank", "last_rank", "position", "loss", "accuracy", "floor", "ceiling")
    return dict(zip(names, map(list, zip(*rows))))


def draw(run: Run, name: str, log: bool = False) -> Any:
    """The figure of one set of `run.by_position`."""
    columns, rows = run.by_position[name], rows_of(run, name)
    position, chance = columns["position"], curves.chance(run)
    limits = _limits(run, name)
    bins = [tuple(ranks) for ranks in columns["bins"].tolist()]
    colors = dict(zip(bins, style.bin_colors(len(bins))))
    marker = {"marker": "o", "markersize": 3.2} if len(position) <= style.FEW_ROWS else {}
    figure, axes = style.panels()
    for key, panel in axes.items():
        style.chance_line(panel, chance[style.POSITION[key]])
        for index, color in reversed(list(enumerate(colors.values()))):  # the first bin on top
            if key in limits:
                panel.plot(position, style.finite(limits[key][index]), color=color, zorder=2, **style.DOTTED)
            for row, look in rows.items():
                values = style.finite(columns[key][row, index])
                panel.plot(position, values, color=color, zorder=3, **{**marker, **look})
    highest = max([chance[0], *(np.nan_to_num(columns["loss"][row], posinf=0.0).max(initial=0.0) for row in rows)])
    style.finish_axes(
        axes, (int(position[0]), int(position[-1])), "position of the predicted bit", log, 1.15 * highest
    )
    style.draw_title(figure, run)
    handles = style.bin_handles(style.drawn(axes, colors))
    steps = {f"step {columns['step'][row]:,}": look for row, look in reversed(rows.items())}
    handles += [style.handle(label, color=style.INK, **look) for label, look in steps.items()]
    if limits:
        handles.append(style.handle("Bayes limit, all ranks", color=style.INK, **style.DOTTED))
    handles.append(style.handle("chance", **style.CHANCE))
    style.legend(figure, run, name, handles)
    return figure
