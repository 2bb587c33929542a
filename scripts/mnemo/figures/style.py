"""What all figures share: how they look, colours, axes, the legend beside them, and the files that hold them.

    with style.matplotlib_style():
        figure, panels = style.panels()
        ...
        save(figure, Path("loss.pdf"), runs, table)     # and loss.csv: what is plotted

Matplotlib is imported by what draws. Letters: E rank bins, S evaluated ranks.
"""

from __future__ import annotations

import contextlib
import csv
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mnemo
from mnemo import curves
from mnemo.errors import UsageError
from mnemo.files import write_atomically
from mnemo.runs import Run, set_phase

FORMATS = {  # what a file says of itself: the key of its description, and what would make equal figures differ
    ".png": ("Description", {"Software": None}),
    ".pdf": ("Subject", {"CreationDate": None}),
    ".svg": ("Description", {"Date": None}),
}
SIZE_INCHES, DPI = (9.0, 6.0), 150
MARGINS = {"left": 0.085, "right": 0.80, "top": 0.865, "bottom": 0.085, "hspace": 0.08}
POSITION = {"loss": 0, "accuracy": 1}  # in Run.limits and curves.chance
SOLID = {"linewidth": 1.7}  # current sequences
DASHED = {"linewidth": 1.1, "dashes": (3.2, 1.8), "alpha": 0.75}  # first sequences after the switch
DOTTED = {"linewidth": 1.0, "linestyle": (0, (1, 1.6))}  # Bayes limits
INK, GREY, FAINT = "#222222", "#8a8a8a", "#c4c4c4"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "svg.hashsalt": "mnemo",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555", "axes.linewidth": 0.8,
    "axes.labelcolor": INK, "xtick.color": "#555555", "ytick.color": "#555555", "axes.titlesize": 9,
    "pdf.fonttype": 42, "ps.fonttype": 42,  # fonts go into the file whole, and text stays text
    "lines.solid_capstyle": "round", "lines.dash_capstyle": "butt", "legend.frameon": False,
}  # fmt: skip
FEW_ROWS = 2  # curves with so few rows get markers
LEGEND = {  # beside the panels, its upper left corner at `bbox_to_anchor`
    "loc": "upper left", "fontsize": 8.5, "title_fontsize": 8.5, "alignment": "left", "handlelength": 2.2,
    "labelspacing": 0.45, "borderaxespad": 0.0, "borderpad": 0.0,
}  # fmt: skip
NO_BREAK = "\u00a0"  # a space at which no line is broken
# Colours for what has no order, of Okabe and Ito: told apart by colour-blind readers too.
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def bin_colors(count: int) -> list[Any]:
    """Colours from dark (first bin) to light: viridis without its yellow end, which is faint on white."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.84 * index / max(1, count - 1)) for index in range(count)]


def panels() -> tuple[Any, dict[str, Any]]:
    """An empty figure and its axes: loss over accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
    figure.subplots_adjust(**MARGINS)  # fixed: two figures can be laid side by side, and the legend has its own column
    return figure, dict(zip(("loss", "accuracy"), figure.subplots(2, 1, sharex=True)))


def finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


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
        finish_grid(panel)
        panel.yaxis.set_label_coords(-0.090, 0.5)


def finish_grid(panel: Any) -> None:
    """Faint horizontal lines behind all else, and short ticks."""
    panel.grid(axis="y", color="#eeeeee", linewidth=0.7, zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(length=3, width=0.8)


def log_ticks(axis: Any, text: Callable[[float], str], room: int = 7) -> None:
    """At most `room` labels of a logarithmic axis: decades, 1-2-5 over two of them, even steps within a part of one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high < 150 * low and room >= 7 else (1.0,)
    axis.set_major_locator(MaxNLocator(min(5, room - 1)) if high < 5 * low else LogLocator(subs=subs, numticks=room))
    axis.set_major_formatter(lambda value, _: text(value))
    axis.set_minor_formatter(NullFormatter())


def draw_title(figure: Any, run: Run) -> None:
    name, state = run.name, run.status.get("state")
    name += f"   ({state})" if isinstance(state, str) and state != "done" else ""
    title(figure, name, run.settings_line(" · "))


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


def drawn(axes: dict[str, Any], colors: dict[curves.Bin, Any]) -> dict[curves.Bin, Any]:
    """The bins of which something is drawn."""
    lines = [line for panel in axes.values() for line in panel.lines if np.isfinite(line.get_ydata()).any()]
    return {ranks: color for ranks, color in colors.items() if any(line.get_color() == color for line in lines)}


def num_ranks(run: Run, name: str) -> int:
    """How many ranks a set's sequences have: K, or for a set of its own (`novel`) one more than its largest rank."""
    if set_phase(name, 0) is not None:
        return run.num_sequences
    return int(max(run.sets[name]["rank"], default=0)) + 1


def sampling(run: Run, name: str) -> str:
    """How many of a set's ranks were scored."""
    rank = run.sets[name]["rank"]
    step, whole = curves.stride(rank), "all ranks" if len(rank) == num_ranks(run, name) else "ranks that are drawn"
    return whole if step == 1 else "some ranks" if step is None else f"1 rank in {step}"


def legend(figure: Any, run: Run, name: str, handles: Sequence[Any]) -> None:
    """The column beside the panels, under the name of a set and how many of its ranks were scored."""
    corner = (MARGINS["right"] + 0.008, MARGINS["top"] + 0.008)
    figure.legend(handles=handles, bbox_to_anchor=corner, title=cut(f"{name}, {sampling(run, name)}", 30), **LEGEND)


# Files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def matplotlib_style() -> Iterator[None]:
    """Figures inside it look as they do here, whatever MPLBACKEND and a matplotlibrc say."""
    os.environ["MPLBACKEND"] = "agg"  # one that Jupyter left names a module that need not be there
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def check_format(path: Path) -> None:
    """Raises UsageError for a file whose name says no known format."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: the format must be one of {', '.join(FORMATS)}")


def save(figure: Any, path: Path, runs: Sequence[Run] = (), table: Any = None, dpi: int = DPI) -> None:
    """Writes a figure, and beside it, with the ending .csv, what is plotted; each in one move, without a date.

    Parameters
    ----------
    figure
        A Matplotlib figure.
    path
        .png, .pdf or .svg.
    runs
        What it shows: the file's metadata name their directories and the revisions of the code that made them.
    table
        Columns of equal length by name, or a pandas DataFrame; None leaves the .csv out.
    """
    check_format(path)
    suffix = path.suffix.lower()
    key, metadata = FORMATS[suffix]
    metadata = {**metadata, key: provenance(runs)}
    write_atomically(path, lambda file: figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=metadata))
    if table is not None:
        write_atomically(path.with_suffix(".csv"), lambda file: write_table(table, file), binary=False)


def provenance(runs: Sequence[Run]) -> str:
    """`runs: cache/a/a, cache/b/b; revision: 1234abc; drawn by mnemo 0.1.0`, of characters that every format takes."""
    revisions = dict.fromkeys(str(run.meta.get("revision", "unknown")) for run in runs)
    words = [f"runs: {', '.join(str(run.path) for run in runs)}", f"revision: {', '.join(revisions)}"] if runs else []
    text = os.fsencode("; ".join([*words, f"drawn by mnemo {mnemo.__version__}"])).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)


def write_table(table: Mapping[str, Sequence[Any]] | Any, file: Any) -> None:
    """Columns by name, or a DataFrame, as CSV; floats with as many digits as they need, nothing for NaN."""
    columns = [np.asarray(table[name]) for name in table]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table)
    texts = ([("" if value == "nan" else value) for value in column.astype(str)] for column in columns)
    writer.writerows(zip(*texts))
