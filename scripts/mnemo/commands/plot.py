"""`mnemo plot`: the figure of a run, by step or by position, or of a sweep."""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mnemo import command, curves, sweeps
from mnemo.errors import DataError, UsageError
from mnemo.figures import style
from mnemo.runs import Run, find_runs, open_run, run_state

MAX_BINS = 20
WATCH_SECONDS = 2.0  # between two looks at the files of a run
LOST_SECONDS = 60.0  # a run whose heartbeat is older goes on no more


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo plot",
        usage="%(prog)s [options] RUN\n       %(prog)s [options] SWEEP\n       %(prog)s [-o DIR] [--watch] RUN RUN...",
        description="Draw a run: loss and accuracy against step, by rank bin, with switches and Bayes limits.\n"
        "Draw a sweep: final loss and accuracy against the settings that it varies.\n"
        "Draw several runs: loss and accuracy against presentations, as scripts/analysis.py --runs, which has options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo plot cache/zipf/zipf                            writes cache/zipf/zipf/figure.png, .csv
  mnemo plot cache/zipf/zipf -o zipf.pdf --log          another place and format, logarithmic loss
  mnemo plot cache/zipf/zipf --bins 0,1,10,100,1000     ranks 0, 1-9, 10-99, 100-999
  mnemo plot cache/zipf/zipf --set phase_0              all first sequences, before and after a switch
  mnemo plot cache/zipf/zipf --by-position              loss and accuracy against the position in a sequence
  mnemo plot cache/sweep_lr                             writes cache/sweep_lr/figure.png; two settings: heat maps
  mnemo plot cache/sweep_lr_width --x train.lr          a line for each combination of the other settings
  mnemo plot cache/zipf/zipf --watch                    drawn anew whenever the run has been evaluated, until it ends
  mnemo plot cache/a/a cache/b/b -o figures             several runs side by side

Beside each figure lies a .csv of what is plotted. The run or sweep may be in flight.
Ranks are true ranks: 0 is the most frequent sequence.
exit codes: 0 done, 64 usage, 65 corrupt data, 74 a file is missing or cannot be read or written""",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=command.path_argument,
        help="run directory, such as cache/GROUP/RUN, or a sweep's, cache/GROUP",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=command.path_argument,
        help=".png, .pdf or .svg (default RUN/figure.png, RUN/by_position.png); of several runs a folder",
    )
    parser.add_argument(
        "--set", metavar="NAME", help="set to draw (default current: phase_0, phase_1, ... in turn; of a sweep train)"
    )
    bin_edges = command.argument(lambda text: curves.parse_edges(text, MAX_BINS))
    parser.add_argument("--bins", metavar="A,B,...", type=bin_edges, help="edges of rank bins (default 0,10,100,...)")
    parser.add_argument("--log", action="store_true", help="logarithmic loss axis")
    parser.add_argument(
        "--by-position", action="store_true", help="against the predicted bit, of a run with eval.by_position"
    )
    parser.add_argument("--watch", action="store_true", help="draw again as the run goes on, until it ends")
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


def _by_position(run: Run, arguments: argparse.Namespace) -> Callable[[], tuple[Any, dict]]:
    """What gives the figure, and the table of what is plotted."""
    from mnemo.figures import positions

    name = arguments.set or positions.default_set(run)
    if arguments.bins:
        raise UsageError("--bins does not go with --by-position, whose bins are those of the run's files")
    if name not in run.by_position:
        raise UsageError(f"{arguments.run} has no set {name!r} by position; it has: {', '.join(run.by_position)}")
    return lambda: (positions.draw(run, name, arguments.log), positions.table(run, name))


def _by_step(run: Run, arguments: argparse.Namespace) -> Callable[[], tuple[Any, dict]]:
    """What gives the figure, and the table of what is plotted."""
    from mnemo.figures import steps

    current = curves.current_sequences(run.sets)
    if current is not None:
        run = run.replace(sets={**run.sets, "current": current})
    name = arguments.set or steps.default_set(run)
    if name not in run.sets:
        raise UsageError(f"{arguments.run} has no set {name!r}; it has: {', '.join(run.sets)}")
    size = style.num_ranks(run, name)
    bins = curves.rank_bins(size, arguments.bins)
    if not bins:
        raise UsageError(f"no bin of --bins holds a rank below {size}")
    return lambda: (steps.draw(run, name, bins, arguments.log), steps.table(run, name, bins))


def _of_run(arguments: argparse.Namespace) -> Callable[[], tuple[Any, dict]]:
    """What gives the figure, and the table of what is plotted."""
    if arguments.over or arguments.x or arguments.y:
        raise UsageError(f"--over, --x and --y are for the folder of a sweep, which {arguments.run} is not")
    run = curves.only_drawn(open_run(arguments.run))
    return (_by_position if arguments.by_position else _by_step)(run, arguments)


def _of_sweep(arguments: argparse.Namespace) -> Callable[[], tuple[Any, dict]]:
    """What gives the figure, and the table of what is plotted."""
    from mnemo.figures import sweep

    if arguments.bins or arguments.by_position:
        raise UsageError(f"--bins and --by-position are for one run; {arguments.run} is a sweep")
    return sweep.choose(arguments.run, arguments)


def _of_several(arguments: argparse.Namespace) -> int:
    """Draws several runs as `analysis.py --runs` does."""
    from mnemo.commands import analysis

    for name in ("set", "bins", "log", "by_position", "over", "x", "y"):
        if getattr(arguments, name):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is for one run or sweep; of several scripts/analysis.py --runs draws more")
    words = ["--no-show-plots", *(["-o", str(arguments.output)] if arguments.output else [])]
    return analysis.main([*words, "--runs", *map(str, arguments.runs)])


def _watch(arguments: argparse.Namespace) -> int:
    """Draws whenever one of the runs has been evaluated, until none of them goes on at two looks."""
    seen: list[int] | None = None
    code, idle, drawn = 0, 0, False
    while idle < 2:
        goes_on = any(map(_goes_on, arguments.runs))
        idle = 0 if goes_on else idle + 1
        now = [file.stat().st_mtime_ns for run in arguments.runs for file in _written(run)]
        if now != seen:
            said = contextlib.redirect_stdout(io.StringIO()) if drawn else contextlib.nullcontext()  # once is enough
            try:
                with said:
                    code, seen, drawn = _draw(arguments), now, True
            except DataError as error:
                if not goes_on:
                    raise
                if seen is None:
                    command.note(f"waiting: {command.one_line(error)}")
                seen = now
        if idle < 2:
            time.sleep(WATCH_SECONDS)
    return code


def _written(path: Path) -> Iterator[Path]:
    """What is written at every evaluation of the runs in a folder, and at their end."""
    for run in find_runs(path):
        yield from sorted(run.glob("eval/*/step.npy"))
        yield from run.glob("status.json") if run_state(run) != "running" else ()


def _goes_on(path: Path) -> bool:
    """Whether a run of a folder is being trained: its status says so, and not too long ago."""

    def is_alive(run: Path) -> bool:
        return run_state(run) == "running" and time.time() - Run(run).status.get("heartbeat", 0) < LOST_SECONDS

    return any(map(is_alive, find_runs(path)))


def act(arguments: argparse.Namespace) -> int:
    return _watch(arguments) if arguments.watch else _draw(arguments)


def _draw(arguments: argparse.Namespace) -> int:
    if len(arguments.runs) > 1:
        return _of_several(arguments)
    (arguments.run,) = arguments.runs
    output = arguments.output or Path(arguments.run) / ("by_position.png" if arguments.by_position else "figure.png")
    style.check_format(output)
    draw = (_of_sweep if sweeps.manifest(arguments.run).is_file() else _of_run)(arguments)
    with style.matplotlib_style():
        figure, table = draw()
        style.save(figure, output, list(map(Run, find_runs(arguments.run))), table)
    print(output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
