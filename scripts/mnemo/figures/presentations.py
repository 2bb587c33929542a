"""The figure of `mnemo compare`: accuracy against presentations, a row of panels a rank bin, a column a phase.

Colour and dash pattern are the member: along a palette where a setting is swept. Over seeds a line is the mean and the
band its 95 % confidence interval; dotted: the Bayes ceiling. Needs Matplotlib; the same runs give the same
bytes. Letters: T evaluations, E rank bins.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemo import curves, members, sweeps
from mnemo.comparison_text import setting_text
from mnemo.figures import style
from mnemo.members import Member, Scope

DASHES = ((), (5.0, 1.8), (1.6, 1.2), (6.0, 1.4, 1.4, 1.4))
PANEL_INCHES, ALL_PANELS_INCHES = ((1.7, 4.6), (1.5, 3.2)), (13.8, 8.4)  # width and height
LEFT, BOTTOM, TOP, BETWEEN, ENTRY, COLUMN = 0.95, 0.62, 0.42, (0.12, 0.32), 0.185, 2.3  # inches; those of the legend
SWEPT = 3  # values from which a setting is swept
LABEL, LINE = 24, 27  # characters of the legend: of a name, of settings
Z_CURVE, Z_BAND, Z_CEILING = 3, 1.5, 2

MemberCurves = dict  # {phase: curves.BinCurves}: means over a member's seeds


class Look(NamedTuple):
    """How the curves of a member are drawn."""

    color: Any
    dashes: tuple[float, ...]


def draw_to(output: Path, compared: Sequence[Member], edges: Sequence[int] | None, labelled: bool = False) -> None:
    """Draws members into a file, and what is plotted into the .csv beside it.

    `labelled` says that names tell more than the settings that differ.
    """
    runs = members.all_runs(compared)
    scope = members.scope_of(runs, edges)
    found = member_curves(compared, scope)
    with style.matplotlib_style():
        style.save(draw(compared, found, scope, labelled), output, runs, table(compared, found, scope))


def member_curves(compared: Sequence[Member], scope: Scope) -> list[MemberCurves]:
    """The curves of each member, of phases that all of its seeds have reached."""
    result, count = [], len(members.all_runs(compared))
    for member in compared:
        runs = members.in_turn(member.runs, count)
        seeds = [curves.bin_curves(run, scope.ranks, scope.bins) for run in runs]
        phases = [phase for phase in seeds[0] if all(phase in seed for seed in seeds)]
        result.append({phase: curves.mean_curves([seed[phase] for seed in seeds]) for phase in phases})
    return result


def table(compared: Sequence[Member], found: Sequence[MemberCurves], scope: Scope) -> dict[str, list[Any]]:
    """What is plotted: a row a point, with the settings that differ."""
    columns = members.columns(compared)
    names = ["run", *members.differing_settings(compared), "phase", "first_rank", "last_rank", "step", "presentations",
             "accuracy", "low", "high", "ceiling"]  # fmt: skip
    result: dict[str, list[Any]] = {name: [] for name in names}
    for member, of_member in zip(compared, found):
        fixed = [_as_text(member.name), *map(setting_text, columns[member.name].values())]
        for phase, curve in of_member.items():
            for index, (first, end) in enumerate(scope.bins[phase]):
                for row in np.flatnonzero(curve.presentations[:, index] > 0):
                    point = (values[row, index] for values in curve[1:5])
                    values = [*fixed, phase, first, end - 1, curve.step[row], *point, curve.ceiling[index]]
                    for name, value in zip(names, values):
                        result[name].append(value)
    return result


# Looks ----------------------------------------------------------------------------------------------------------------


def _numbers(values: Sequence[Any]) -> set[float] | None:
    """The different numbers among values, of which some may be missing; None where there is a word."""
    known = [value for value in values if value is not None]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    return set(map(float, known)) if numeric else None


def swept_setting(settings: Sequence[dict[str, Any]]) -> tuple[str, list[str]] | None:
    """The setting with most numbers among members that differ in no word, and what else tells members apart.

    What goes with it, as in a zip, tells nothing more. None where no setting has `SWEPT` values, or where there are
    more combinations of the others than dash patterns.
    """
    texts = [{key: setting_text(value) for key, value in of_member.items()} for of_member in settings]
    words = [key for key in settings[0] if _numbers([of_member[key] for of_member in settings]) is None]

    def combinations(keys: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(of_member[key] for key in keys) for of_member in texts]

    def count(key: str) -> int:
        alike: dict[tuple[str, ...], set[str]] = {}
        for place, of_member in zip(combinations(words), texts):
            alike.setdefault(place, set()).update([of_member[key]] if of_member[key] != "-" else [])
        return max(map(len, alike.values()))

    name = max((key for key in settings[0] if key not in words), key=count, default=None)
    if name is None or count(name) < SWEPT:
        return None
    known = len(set(combinations([*words, name])))
    others = [key for key in settings[0] if key != name
              and (key in words or len(set(combinations([*words, name, key]))) > known)]  # fmt: skip
    return (name, others) if len(set(combinations(others))) <= len(DASHES) else None


def looks(compared: Sequence[Member], labelled: bool = False) -> tuple[list[Look], list[tuple[str, Look]]]:
    """The look of each member, and the entries of the legend."""
    settings = list(members.columns(compared).values())
    swept = swept_setting(settings)
    if swept is None:
        count = len(compared)
        few = count <= len(style.CATEGORIES)
        colors = style.CATEGORIES if few else np.repeat(style.bin_colors(-(-count // len(DASHES))), len(DASHES), axis=0)
        found = [Look(color, DASHES[index % len(DASHES)]) for index, color in zip(range(count), colors)]
        return found, [(cut(member.name), look) for member, look in zip(compared, found)]
    name, others = swept
    short = sweeps.short_keys(list(settings[0]))
    values = sorted(_numbers([of_member[name] for of_member in settings]) or ())
    colors = dict(zip([*values, None], [*style.bin_colors(len(values)), style.GREY]))
    texts = [", ".join(f"{short[key]} = {setting_text(of_member[key])}" for key in others) for of_member in settings]
    dashes = dict(zip(dict.fromkeys(texts), DASHES))
    found = [Look(colors[of_member[name]], dashes[text]) for of_member, text in zip(settings, texts)]
    if labelled:
        return found, [(cut(member.name), look) for member, look in zip(compared, found)]
    said = {of_member[name]: setting_text(of_member[name]) for of_member in settings}
    entries = [(f"{short[name]} = {said[value]}", Look(colors[value], ()))
               for value in (*values, None) if value in said]  # fmt: skip
    if len(dashes) > 1:
        entries += [(" ", Look("none", ())),
                    *(("\n".join(textwrap.wrap(text, LINE)), Look(style.INK, dash)) for text, dash in dashes.items())]
    return found, entries


def _as_text(name: str) -> str:
    """A name without the bytes in it that are no text."""
    return os.fsencode(name).decode("utf-8", "replace")


def cut(name: str, length: int = LABEL) -> str:
    """A name that fits the legend: a line a directory, of whose name the end tells more than the start."""
    name, bracket, state = _as_text(name).partition(" (")
    name = "/\n".join(part if len(part) <= length else "..." + part[-length + 3 :] for part in name.split("/"))
    return "\n".join([name, *textwrap.wrap(f"({state}", length)]) if bracket else name


# Panels ---------------------------------------------------------------------------------------------------------------


def draw(
    compared: Sequence[Member], found: Sequence[MemberCurves], scope: Scope, labelled: bool = False
) -> Any:
    """The figure of members with their curves, from `member_curves`."""
    phases = sorted({phase for of_member in found for phase in of_member})
    bins = _drawn_bins(found, scope)
    of_members, entries = looks(compared, labelled)
    chances = sorted({curves.chance(run)[1] for run in members.all_runs(compared)})
    has_ceiling = any(np.isfinite(curve.ceiling).any() for of_member in found for curve in of_member.values())
    figure, panels = _lay_out(len(bins), len(phases), _handles(entries, has_ceiling))
    for row, ranks in zip(panels, bins):
        for phase, panel in zip(phases, row):
            for chance in chances:
                panel.axhline(chance, color=style.FAINT, linewidth=1.0, zorder=0.5)
            if ranks in scope.bins[phase]:
                index = scope.bins[phase].index(ranks)
                here = [(of_member[phase], look) for of_member, look in zip(found, of_members) if phase in of_member]
                for curve, look in here:
                    _draw_curve(panel, curve, index, look)
                _draw_ceilings(panel, here, index)
        _finish(row, ranks)
    lowest = min(np.min(line.get_ydata()) for panel in panels.flat for line in panel.lines)
    panels[0, 0].set_ylim(min(lowest - 0.025, 0.475), 1.01)  # of all panels: a band may leave them
    for phase, panel in zip(phases, panels[0]):
        panel.set_title("first sequences" if phase == 0 else f"after switch {phase}", loc="left", color=style.INK)
    return figure


def _drawn_bins(found: Sequence[MemberCurves], scope: Scope) -> list[curves.Bin]:
    """Bins that some member was ever presented; all where none was."""
    seen: dict[curves.Bin, bool] = {}
    for phase, curve in (item for of_member in found for item in of_member.items()):
        for ranks, presentations in zip(scope.bins[phase], curve.presentations.T):
            seen[ranks] = seen.get(ranks, False) or bool((presentations > 0).any())
    return sorted(ranks for ranks, some in seen.items() if some or not any(seen.values()))


def _draw_curve(panel: Any, curve: curves.BinCurves, index: int, look: Look) -> None:
    """A bin of a member, from its first presentation on."""
    seen = curve.presentations[:, index] > 0
    x, mean, low, high = (values[seen, index] for values in curve[1:5])
    if not len(x):
        return
    marker = {"marker": "o", "markersize": 3.2} if len(x) <= style.FEW_ROWS else {}
    line = {"linestyle": (0, look.dashes) if look.dashes else "-", "dash_capstyle": "butt", "linewidth": 1.5}
    panel.plot(x, mean, color=look.color, zorder=Z_CURVE, **line, **marker)
    if np.isfinite(low).any():
        panel.fill_between(x, low, high, color=look.color, alpha=0.1, linewidth=0, zorder=Z_BAND)


def _draw_ceilings(panel: Any, here: Sequence[tuple[curves.BinCurves, Look]], index: int) -> None:
    """Each ceiling over the stretch of those whose it is, in the colour of one or in grey."""
    shared: dict[float, list[tuple[np.ndarray, Look]]] = {}
    for curve, look in here:
        x = curve.presentations[:, index][curve.presentations[:, index] > 0]
        if len(x) and np.isfinite(curve.ceiling[index]):
            shared.setdefault(round(float(curve.ceiling[index]), 9), []).append((x, look))
    for ceiling, owners in shared.items():
        ends = [min(x[0] for x, _ in owners), max(x[-1] for x, _ in owners)]
        color = owners[0][1].color if len(owners) == 1 else style.GREY
        panel.plot(ends, [ceiling] * 2, color=color, zorder=Z_CEILING, **style.DOTTED)


def _handles(entries: Sequence[tuple[str, Look]], has_ceiling: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.color, linewidth=1.7, linestyle=(0, look.dashes) if look.dashes else "-", label=text)
        for text, look in entries
    ]
    handles.append(Line2D([], [], linestyle="none", label=" "))
    if has_ceiling:
        handles.append(Line2D([], [], color=style.GREY, label="Bayes ceiling", **style.DOTTED))
    return [*handles, Line2D([], [], color=style.FAINT, linewidth=1.0, label="chance")]


def _lay_out(rows: int, columns: int, handles: Sequence[Any]) -> tuple[Any, np.ndarray]:
    """An empty figure with its legend, and its panels (rows, columns)."""
    from matplotlib.figure import Figure

    size = [
        min(most, max(least, whole / count))
        for (least, most), whole, count in zip(PANEL_INCHES, ALL_PANELS_INCHES, (columns, rows))
    ]
    inner = [count * inches + (count - 1) * gap for count, inches, gap in zip((columns, rows), size, BETWEEN)]
    lines = sum(handle.get_label().count("\n") + 1 for handle in handles)
    sides = max(1, math.ceil(lines * ENTRY / max(inner[1], ALL_PANELS_INCHES[1])))  # columns of the legend
    inner[1] = max(inner[1], lines * ENTRY / sides)
    width, height = LEFT + inner[0] + sides * COLUMN, BOTTOM + inner[1] + TOP
    figure = Figure(figsize=(width, height), dpi=style.DPI, facecolor="white")
    figure.subplots_adjust(
        left=LEFT / width, right=(LEFT + inner[0]) / width, bottom=BOTTOM / height, top=1 - TOP / height,
        wspace=BETWEEN[0] / size[0], hspace=BETWEEN[1] / size[1],
    )  # fmt: skip
    figure.text((LEFT + inner[0] / 2) / width, 0.12 / height, "presentations (mean over the ranks of a bin)",
                ha="center", va="bottom", color=style.INK)  # fmt: skip
    corner = ((LEFT + inner[0] + 0.12) / width, 1 - TOP / height)
    figure.legend(handles=handles, bbox_to_anchor=corner, ncols=sides, **{**style.LEGEND, "handlelength": 2.4})
    return figure, figure.subplots(rows, columns, sharex="row", sharey=True, squeeze=False)


def _finish(row: Sequence[Any], ranks: curves.Bin) -> None:
    """Scales and labels of the panels of a rank bin."""
    row[0].set_ylabel(f"{curves.bin_label(ranks).replace('-', '–')}\naccuracy")
    for panel in row:
        panel.set_xscale("log")
        wide = panel.get_window_extent().width / style.DPI >= 3.0
        style.log_ticks(panel.xaxis, lambda value: f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:g}",
                        7 if wide else 3)  # fmt: skip
        style.finish_grid(panel)
