#!/usr/bin/env python3
"""Draw a run: loss and accuracy against step, by rank bin, beside the Bayes floor and ceiling of each bin.

After a switch the sequences of the first phase are drawn too, dashed, over the same ranks: what is forgotten.
The folder of a sweep: see sweep_figure.py. Works on what is in flight. Needs NumPy and Matplotlib; the same run gives
the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import curves
import mnemo_io
import numpy as np
import sweep_runs

METADATA = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
SIZE_INCHES, DPI = (9.0, 6.0), 150
MARGINS = {"left": 0.085, "right": 0.80, "top": 0.865, "bottom": 0.085, "hspace": 0.08}
POSITION = {"loss": 0, "accuracy": 1}  # in mnemo_io.limits and curves.chance
SOLID = {"linewidth": 1.7}  # current sequences
DASHED = {"linewidth": 1.1, "dashes": (3.2, 1.8), "alpha": 0.75}  # first sequences after the switch
SWAPPED = {"linestyle": "none", "markersize": 6.0, "markeredgecolor": "white"}  # swap tests
MARKERS = "Ds^vPX"  # of each in turn
DOTTED = {"linewidth": 1.0, "linestyle": (0, (1, 1.6))}  # Bayes limits
INK, GREY, FAINT = "#222222", "#8a8a8a", "#c4c4c4"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "svg.hashsalt": "mnemo",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555", "axes.linewidth": 0.8,
    "axes.labelcolor": INK, "xtick.color": "#555555", "ytick.color": "#555555", "axes.titlesize": 9,
    "lines.solid_capstyle": "round", "lines.dash_capstyle": "butt", "legend.frameon": False,
}  # fmt: skip
FEW_ROWS = 2  # curves with so few rows get markers
MAX_BINS = 20
NO_BREAK = "\u00a0"  # a space at which no line is broken


def bin_colors(count: int) -> list[Any]:
    """Colours from dark (first bin) to light: viridis without its yellow end, which is faint on white."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.84 * index / max(1, count - 1)) for index in range(count)]


def default_set(run: dict[str, Any]) -> str:
    """`current` or `train` where it is, else the first set; ValueError when the run has none."""
    if not run["sets"]:
        raise ValueError(f"{run['path']}: nothing has been evaluated yet (no eval/SET)")
    return next((name for name in ("current", "train") if name in run["sets"]), next(iter(run["sets"])))


def follows_switches(name: str) -> bool:
    """Whether a set holds other sequences after a switch, as `train` does."""
    return mnemo_io.set_phase(name, 0) != mnemo_io.set_phase(name, 1)


def segments(run: dict[str, Any], name: str) -> list[slice]:
    """Stretches of rows in which a set's sequences stay the same: a curve breaks between them."""
    phase = run["sets"][name]["phase"]
    return [rows for _, rows in curves.phase_segments(phase)] if follows_switches(name) else [slice(0, len(phase))]


def phase_spans(run: dict[str, Any], name: str, last_step: int) -> list[tuple[int, int, int]]:
    """(phase, first step, last step) of the sequences that a set holds; [] for sequences that are never trained on."""
    starts = {0: 0, **{entry["phase"]: entry["step"] for entry in run["switches"]}}
    if follows_switches(name):
        return list(zip(starts, starts.values(), [*list(starts.values())[1:], last_step]))
    phase = mnemo_io.set_phase(name, 0)
    return [(phase, starts[phase], last_step)] if phase in starts else []


def num_ranks(run: dict[str, Any], name: str) -> int:
    """How many ranks a set's sequences have: K, or for a set of its own (`novel`) one more than its largest rank."""
    if mnemo_io.set_phase(name, 0) is not None:
        return mnemo_io.num_sequences(run)
    return int(max(run["sets"][name]["rank"], default=0)) + 1


def first_sequences(run: dict[str, Any], name: str) -> dict[str, np.ndarray] | None:
    """Rows of set `phase_0` from the first switch on, over the ranks of set `name`; None where there are none."""
    if not run["switches"] or not follows_switches(name) or "phase_0" not in run["sets"]:
        return None
    columns = curves.select_ranks(run["sets"]["phase_0"], run["sets"][name]["rank"])
    rows = curves.rows_after(columns["step"], run["switches"][0]["step"])
    if len(columns["step"][rows]) == 0 or len(columns["rank"]) == 0:
        return None
    return {key: array if key == "rank" else array[rows] for key, array in columns.items()}


def swap_tests(run: dict[str, Any], name: str) -> dict[str, dict[str, np.ndarray]]:
    """{event: columns} of swap tests that scored a set's sequences, or the first ones where it follows switches."""
    base = "phase_0" if follows_switches(name) else name
    tests = {key[: -len(base) - 1]: columns for key, columns in run["sets"].items() if key.endswith(f".{base}")}
    tests = {event: curves.select_ranks(columns, run["sets"][name]["rank"]) for event, columns in tests.items()}
    return {event: columns for event, columns in tests.items() if len(columns["step"]) and len(columns["rank"])}


def panels() -> tuple[Any, dict[str, Any]]:
    """An empty figure and its axes: loss over accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
    figure.subplots_adjust(**MARGINS)  # fixed: two figures can be laid side by side, and the legend has its own column
    return figure, dict(zip(("loss", "accuracy"), figure.subplots(2, 1, sharex=True)))


def draw(run: dict[str, Any], name: str, bins: Sequence[curves.Bin], log: bool = False) -> Any:
    """The figure of a run.

    Parameters
    ----------
    run
        From `mnemo_io.read_run`.
    name
        The set to draw.
    bins
        Rank bins, from `curves.rank_bins`; those without an evaluated rank are left out.
    log
        Logarithmic loss axis.
    """
    figure, axes = panels()
    columns, old = run["sets"][name], first_sequences(run, name)
    rank = columns["rank"]
    bins = [ranks for ranks in bins if ((rank >= ranks[0]) & (rank < ranks[1])).any()]
    colors = bin_colors(len(bins))
    last_step, chance = _last_step(run, name), curves.chance(run)
    _draw_train_loss(axes["loss"], run)
    for key, panel in axes.items():
        panel.axhline(chance[POSITION[key]], color=FAINT, linewidth=1.0, zorder=0.5)
        _draw_limits(panel, run, name, key, bins, colors, last_step)
        if old is not None:
            _draw_curves(panel, old, slice(None), key, bins, colors, **DASHED)
        for rows in segments(run, name):
            _draw_curves(panel, columns, rows, key, bins, colors, **SOLID)
        for marker, swapped in zip(itertools.cycle(MARKERS), swap_tests(run, name).values()):
            _draw_curves(panel, swapped, slice(None), key, bins, colors, marker=marker, **SWAPPED)
    finish_axes(axes, (0, last_step), "step", log, _highest(columns, bins, chance[0]))
    _draw_switches(axes, run, last_step)
    draw_title(figure, run)
    _draw_legend(figure, run, name, drawn(axes, dict(zip(bins, colors))), old is not None)
    return figure


def drawn(axes: dict[str, Any], colors: dict[curves.Bin, Any]) -> dict[curves.Bin, Any]:
    """The bins of which something is drawn."""
    lines = [line for panel in axes.values() for line in panel.lines if np.isfinite(line.get_ydata()).any()]
    return {ranks: color for ranks, color in colors.items() if any(line.get_color() == color for line in lines)}


def _highest(columns: dict[str, np.ndarray], bins: Sequence[curves.Bin], chance: float) -> float:
    """Top of the loss axis: the current sequences fit; what is forgotten may leave the panel."""
    means = curves.bin_mean(columns["loss"], columns["rank"], bins)
    means = means[np.isfinite(means)]
    return 1.15 * max(float(means.max(initial=0.0)), chance)


def _last_step(run: dict[str, Any], name: str) -> int:
    """Right end of the step axis: what has been seen, or the plan where nothing has."""
    seen = [int(steps[-1]) for steps in (run["sets"][name]["step"], run["metrics"]["step"]) if len(steps)]
    seen += [entry["step"] for entry in run["switches"]]
    planned = run["config"]["train"].get("steps")
    return max(seen, default=0) or (planned if isinstance(planned, int) and planned > 0 else 1)


def _draw_curves(
    panel: Any, columns: dict, rows: slice, key: str, bins: Sequence[curves.Bin], colors: list, **style: Any
) -> None:
    step = columns["step"][rows]
    means = curves.bin_mean(columns[key][rows], columns["rank"], bins)
    marker = {"marker": "o", "markersize": 3.2} if len(step) <= FEW_ROWS else {}
    for index in reversed(range(len(bins))):  # the first bin on top
        panel.plot(step, finite(means[:, index]), color=colors[index], zorder=3, **{**marker, **style})


def finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _draw_limits(
    panel: Any, run: dict, name: str, key: str, bins: Sequence[curves.Bin], colors: list, last_step: int
) -> None:
    """Bayes floor or ceiling of each bin over the ranks evaluated, from the start of each phase to its end."""
    for phase, start, end in phase_spans(run, name, last_step):
        bounds = mnemo_io.limits(run, name, phase)
        if bounds is None:
            continue
        means = curves.bin_mean(bounds[POSITION[key]], run["sets"][name]["rank"], bins)
        for value, color in zip(means, colors):
            panel.plot([start, end], [value, value], color=color, zorder=2, **DOTTED)


def _draw_train_loss(panel: Any, run: dict[str, Any]) -> None:
    metrics = run["metrics"]
    for _, rows in curves.phase_segments(metrics["phase"]):
        panel.plot(metrics["step"][rows], finite(metrics["train_loss"][rows]), color=GREY, linewidth=0.8, zorder=1)


def _draw_switches(axes: dict[str, Any], run: dict[str, Any], last_step: int) -> None:
    """Dashed lines; a label above the top panel wherever it does not touch the one before."""
    labelled = -math.inf
    for entry in run["switches"]:
        for panel in axes.values():
            panel.axvline(entry["step"], color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
        if entry["step"] - labelled > 0.09 * last_step:
            place = {"xy": (entry["step"], 1.0), "xycoords": axes["loss"].get_xaxis_transform()}
            shift = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes["loss"].annotate("switch", **place, **shift, fontsize=8, color="#555555")
            labelled = entry["step"]


def finish_axes(axes: dict[str, Any], span: tuple[int, int], label: str, log: bool, highest: float) -> None:
    axes["accuracy"].set_xlabel(label)
    beside = 0.012 * (span[1] - span[0]) or 0.5
    axes["accuracy"].set_xlim(span[0] - beside, span[1] + beside)
    axes["accuracy"].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes["accuracy"].xaxis.get_major_locator().set_params(integer=True)
    finish_values(axes, log, highest)


def finish_values(axes: dict[str, Any], log: bool, highest: float) -> None:
    """Labels, limits and grid of the two vertical axes."""
    axes["loss"].set_ylabel("loss (nats)")
    axes["accuracy"].set_ylabel("accuracy")
    if log:
        axes["loss"].set_yscale("log")
        log_ticks(axes["loss"].yaxis, lambda value: f"{value:g}")
    else:
        axes["loss"].set_ylim(-0.02 * highest, highest)
    low, _ = axes["accuracy"].get_ylim()
    axes["accuracy"].set_ylim(min(low, 0.475), 1.01)
    for panel in axes.values():
        panel.grid(axis="y", color="#eeeeee", linewidth=0.7, zorder=0)
        panel.set_axisbelow(True)
        panel.tick_params(length=3, width=0.8)
        panel.yaxis.set_label_coords(-0.090, 0.5)


def log_ticks(axis: Any, text: Callable[[float], str]) -> None:
    """Labels that a logarithmic axis has room for: decades, 1-2-5 over two of them, even steps within a part of one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high < 150 * low else (1.0,)
    axis.set_major_locator(MaxNLocator(5) if high < 5 * low else LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(lambda value, _: text(value))
    axis.set_minor_formatter(NullFormatter())


def draw_title(figure: Any, run: dict[str, Any]) -> None:
    name, state = mnemo_io.run_name(run), run["status"].get("state")
    name += f"   ({state})" if isinstance(state, str) and state != "done" else ""
    title(figure, name, mnemo_io.settings_line(run, " · "))


def title(figure: Any, name: str, settings: str) -> None:
    """Name, and settings in a line or two, over the whole figure; what is too long is cut."""
    figure.text(0.014, 0.962, cut(name, 80), va="center", fontsize=12, fontweight="bold", color=INK)
    figure.text(0.014, 0.92, _lines(settings, 130), va="center", fontsize=8, color="#555555")


def _lines(settings: str, length: int) -> str:
    """At most two lines, broken between settings alone."""
    bound = settings.replace(" ", NO_BREAK).replace(f"{NO_BREAK}·{NO_BREAK}", f"{NO_BREAK}· ")
    return "\n".join(textwrap.wrap(bound, length, max_lines=2, placeholder="...", break_on_hyphens=False))


def cut(text: str, length: int) -> str:
    """A text without what is too long of it."""
    return text if len(text) <= length else text[: length - 3] + "..."


def bin_handles(colors: dict[curves.Bin, Any]) -> list[Any]:
    """Entries of a legend: the bins, and a gap."""
    from matplotlib.lines import Line2D

    labels = {curves.bin_label(ranks).replace("-", "–"): color for ranks, color in colors.items()}
    handles = [Line2D([], [], color=color, linewidth=2.2, label=label) for label, color in labels.items()]
    return [*handles, Line2D([], [], linestyle="none", label=" ")]


def _draw_legend(figure: Any, run: dict[str, Any], name: str, colors: dict[curves.Bin, Any], has_old: bool) -> None:
    from matplotlib.lines import Line2D

    handles = bin_handles(colors)
    if has_old:
        handles.append(Line2D([], [], color=INK, label="current sequences", **SOLID))
        handles.append(Line2D([], [], color=INK, label="first sequences", **DASHED))
    for marker, event in zip(itertools.cycle(MARKERS), swap_tests(run, name)):
        label = cut(f"{event}: first" if has_old else event, 24)
        handles.append(Line2D([], [], color=INK, marker=marker, label=label, **SWAPPED))
    if any(mnemo_io.limits(run, name, phase) is not None for phase in run["theory"]):
        handles.append(Line2D([], [], color=INK, label="Bayes limit", **DOTTED))
    if len(run["metrics"]["step"]):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, label="training loss"))
    handles.append(Line2D([], [], color=FAINT, linewidth=1.0, label="chance"))
    legend(figure, run, name, handles)


def sampling(run: dict[str, Any], name: str) -> str:
    """How many of a set's ranks were scored."""
    rank = run["sets"][name]["rank"]
    step, whole = curves.stride(rank), "all ranks" if len(rank) == num_ranks(run, name) else "ranks that are drawn"
    return whole if step == 1 else "some ranks" if step is None else f"1 rank in {step}"


def legend(figure: Any, run: dict[str, Any], name: str, handles: Sequence[Any]) -> None:
    """The column beside the panels, under the name of a set and how many of its ranks were scored."""
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(MARGINS["right"] + 0.008, MARGINS["top"] + 0.008),
        title=cut(f"{name}, {sampling(run, name)}", 30), alignment="left", fontsize=8.5, title_fontsize=8.5,
        handlelength=2.2, labelspacing=0.45, borderaxespad=0.0, borderpad=0.0,
    )  # fmt: skip


@contextlib.contextmanager
def matplotlib_style() -> Iterator[None]:
    """Figures inside it look as they do here, whatever MPLBACKEND and a matplotlibrc say."""
    os.environ["MPLBACKEND"] = "agg"  # one that Jupyter left names a module that need not be there
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def save(figure: Any, path: Path) -> None:
    """Writes the figure in one move; the bytes hold no date."""
    suffix = path.suffix.lower()
    mnemo_io.write_atomically(
        path, lambda file: figure.savefig(file, format=suffix[1:], dpi=DPI, metadata=METADATA[suffix])
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo plot",
        usage="%(prog)s [options] RUN\n       %(prog)s [options] SWEEP",
        description="Draw a run: loss and accuracy against step, by rank bin, with switches and Bayes limits.\n"
        "Draw a sweep: final loss and accuracy against the settings that it varies.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo plot cache/zipf/zipf                            writes cache/zipf/zipf/figure.png
  mnemo plot cache/zipf/zipf -o zipf.pdf --log          another place and format, logarithmic loss
  mnemo plot cache/zipf/zipf --bins 0,1,10,100,1000     ranks 0, 1-9, 10-99, 100-999
  mnemo plot cache/zipf/zipf --set phase_0              all first sequences, before and after a switch
  mnemo plot cache/zipf/zipf --by-position              loss and accuracy against the position in a sequence
  mnemo plot cache/sweep_lr                             writes cache/sweep_lr/figure.png; two settings: heat maps
  mnemo plot cache/sweep_lr_width --x train.lr          a line for each combination of the other settings

The run or sweep may be in flight. Ranks are true ranks: 0 is the most frequent sequence.
exit codes: 0 done, 64 usage, 65 corrupt data, 74 a file is missing or cannot be read or written""",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        type=mnemo_io.path_argument,
        help="run directory, such as cache/GROUP/RUN, or a sweep's, cache/GROUP",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=mnemo_io.path_argument,
        help=".png, .pdf or .svg (default RUN/figure.png, RUN/by_position.png)",
    )
    parser.add_argument(
        "--set",
        metavar="NAME",
        help="set to draw (default current: phase_0, phase_1, ... in turn; of a sweep train)",
    )
    bin_edges = mnemo_io.argument(lambda text: curves.parse_edges(text, MAX_BINS))
    parser.add_argument("--bins", metavar="A,B,...", type=bin_edges, help="edges of rank bins (default 0,10,100,...)")
    parser.add_argument("--log", action="store_true", help="logarithmic loss axis")
    parser.add_argument(
        "--by-position", action="store_true", help="against the predicted bit, of a run with eval.by_position"
    )
    sweep = parser.add_argument_group("of a sweep")
    sweep.add_argument(
        "--over",
        metavar="KEY,...",
        type=lambda text: text.split(","),
        help="settings whose values are averaged over (default seed)",
    )
    sweep.add_argument("--x", metavar="KEY", help="setting along the horizontal axis; without --y a line each")
    sweep.add_argument("--y", metavar="KEY", help="setting along the vertical axis of heat maps")
    return parser


def _figure_by_position(run: dict[str, Any], arguments: argparse.Namespace) -> Callable[[], Any] | int:
    """What draws it, or an exit code."""
    import position_figure

    name = arguments.set or position_figure.default_set(run)
    if arguments.bins:
        return mnemo_io.usage_error("--bins does not go with --by-position, whose bins are those of the run's files")
    if name not in run["by_position"]:
        known = ", ".join(run["by_position"])
        return mnemo_io.usage_error(f"{arguments.run} has no set {name!r} by position; it has: {known}")
    return lambda: position_figure.draw(run, name, arguments.log)


def _figure_by_step(run: dict[str, Any], arguments: argparse.Namespace) -> Callable[[], Any] | int:
    """What draws it, or an exit code."""
    current = curves.current_sequences(run["sets"])
    if current is not None:
        run["sets"]["current"] = current
    name = arguments.set or default_set(run)
    if name not in run["sets"]:
        return mnemo_io.usage_error(f"{arguments.run} has no set {name!r}; it has: {', '.join(run['sets'])}")
    size = num_ranks(run, name)
    bins = curves.rank_bins(size, arguments.bins)
    if not bins:
        return mnemo_io.usage_error(f"no bin of --bins holds a rank below {size}")
    return lambda: draw(run, name, bins, arguments.log)


def _figure_of_run(arguments: argparse.Namespace) -> Callable[[], Any] | int:
    """What draws it, or an exit code."""
    if arguments.over or arguments.x or arguments.y:
        return mnemo_io.usage_error(f"--over, --x and --y are for the folder of a sweep, which {arguments.run} is not")
    run = curves.only_drawn(mnemo_io.read_run(arguments.run))
    return (_figure_by_position if arguments.by_position else _figure_by_step)(run, arguments)


def _figure_of_sweep(arguments: argparse.Namespace) -> Callable[[], Any] | int:
    """What draws it, or an exit code."""
    import sweep_figure

    if arguments.bins or arguments.by_position:
        return mnemo_io.usage_error(f"--bins and --by-position are for one run; {arguments.run} is a sweep")
    return sweep_figure.choose(arguments.run, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = mnemo_io.parse_arguments(_parser(), argv)
    output = arguments.output or Path(arguments.run) / ("by_position.png" if arguments.by_position else "figure.png")
    if output.suffix.lower() not in METADATA:
        return mnemo_io.usage_error(f"{output}: the format must be one of {', '.join(METADATA)}")
    figure = (_figure_of_sweep if sweep_runs.manifest(arguments.run).is_file() else _figure_of_run)(arguments)
    if isinstance(figure, int):
        return figure
    with matplotlib_style():
        save(figure(), output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(mnemo_io.guarded(main))
