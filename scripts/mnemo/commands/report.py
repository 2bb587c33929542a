"""`mnemo report`: one HTML file over runs: table, curves, learning rates, one model over another, provenance."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mnemo import command, curves, report

MAX_BINS = 20


def point_count(text: str) -> int:
    """A number of points from 2 to 100,000."""
    if not text.isdecimal() or not 2 <= int(text) <= 100_000:
        raise ValueError(f"points must be a number from 2 to 100000, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo report",
        description="Write one HTML file over runs that opens without a network: a table of runs with the settings "
        "that differ, curves, results against learning rates and other settings, one model over another, provenance.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo report cache/switch/switch                     one run, into report.html
  mnemo report cache/sweep_lr -o lr.html               a sweep; it may be in flight
  mnemo report cache                                   all runs of all groups
  mnemo report cache/compare_transformer cache/compare_dam --title "the same data"

What cannot be read is named, here and on the page; the rest is shown.
exit codes: 0 done, 64 usage, 65 something could not be read, 73 no plotly, 74 the file cannot be written""",
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=command.path_argument,
        help="run directory, a folder of runs, or a folder of such folders",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=command.path_argument, default=Path("report.html"),
        help="default report.html",
    )  # fmt: skip
    parser.add_argument("--title", metavar="TEXT", help="default: the names of the paths")
    bin_edges = command.argument(lambda text: curves.parse_edges(text, MAX_BINS))
    parser.add_argument("--bins", metavar="A,B,...", type=bin_edges, help="edges of rank bins (default 0,10,100,...)")
    parser.add_argument(
        "--points", metavar="N", type=command.argument(point_count), default=report.POINTS,
        help="at most so many points of a curve (default %(default)s; fewer where runs are many)",
    )  # fmt: skip
    return parser


def act(arguments: argparse.Namespace, argv: Sequence[str] | None) -> None:
    words = [os.environ.get("MNEMO_PROGRAM", "mnemo"), "report", *(sys.argv[1:] if argv is None else argv)]
    contents = report.write(
        arguments.output, arguments.paths, arguments.title, shlex.join(words), arguments.bins, arguments.points
    )
    if contents["thinned"]:
        command.note(f"curves have at most {contents['points']} points: not every evaluation is shown")
    print(arguments.output)
    command.fail_with(contents["problems"])


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), lambda arguments: act(arguments, argv), argv)
