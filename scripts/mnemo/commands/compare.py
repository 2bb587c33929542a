"""`mnemo compare`: runs side by side by rank bin and presentations, or by their distance from one; the figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mnemo import command, comparison, comparison_text, curves, members
from mnemo.errors import UsageError
from mnemo.runs import find_runs


def checked_threshold(text: str) -> str:
    """A threshold as typed; DataError says what is wrong."""
    curves.parse_threshold(text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo compare",
        description="Lay runs side by side by rank bin and presentations, beside the Bayes ceiling.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo compare cache/switch/switch                          one run: phases, re-learning speed-up, stored bits
  mnemo compare cache/a/seed=0 cache/a/seed=1 cache/b/b      the two seeds count as one member, with intervals
  mnemo compare cache/a                                      every run in a folder of runs
  mnemo compare TRANSFORMER DAM --figure both.png            one over the other, with the ceiling
  mnemo compare TRANSFORMER --against cache/dam_sweep        which of these runs has the most similar curves?
  mnemo compare RUN --format csv --table swaps               one table for a spreadsheet

A run that is not done stands by itself; runs with equal data and weights count as one seed.
A threshold ceiling:0.9 is 90 % of the way from chance to the Bayes ceiling of the ranks; 0.9 is an accuracy.
Intervals are 95 % bootstrap intervals over ranks and seeds, the same at every call.
exit codes: 0 done, 64 usage, 65 corrupt data, 74 a file is missing or cannot be read or written""",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=command.path_argument, help="run directory, or a folder of runs"
    )
    parser.add_argument(
        "--against", metavar="DIR", type=command.path_argument, help="rank the runs in DIR by their distance from RUN"
    )
    parser.add_argument(
        "--threshold",
        metavar="T",
        default="ceiling:0.9",
        type=command.argument(checked_threshold),
        help="ceiling:SHARE or an accuracy",
    )
    parser.add_argument(
        "--bins",
        metavar="A,B,...",
        type=command.argument(curves.parse_edges),
        help="edges of rank bins (default 0,10,100,...)",
    )
    parser.add_argument("--each", action="store_true", help="do not join seeds of one experiment")
    parser.add_argument("--format", choices=("table", "md", "json", "csv"), default="table", help="default table")
    parser.add_argument("--table", choices=tuple(comparison_text.TITLES), help="only this table (csv: default bins)")
    parser.add_argument(
        "--figure", metavar="OUT", type=command.path_argument, help="draw the curves: .png, .pdf or .svg"
    )
    parser.add_argument("--replicates", metavar="B", type=int, default=500, help="bootstrap replicates (default 500)")
    return parser


def rank_against(arguments: argparse.Namespace, target: members.Member) -> tuple[dict, list[members.Member]]:
    """The ranking of the runs in --against, and the nearest."""
    own = {run.path.resolve() for run in target.runs}
    others = [path for path in find_runs(arguments.against) if path.resolve() not in own]
    candidates = members.find(others, beside=arguments.runs)
    if not candidates:
        raise UsageError(f"{arguments.against} holds no other run")
    result = comparison.rank_against(target, candidates, arguments.bins)
    nearest = [row["run"] for row in result["ranking"][:1]]
    return result, [member for member in candidates if member.name in nearest]


def act(arguments: argparse.Namespace) -> None:
    if arguments.replicates < 1:
        raise UsageError(f"--replicates must be at least 1, got {arguments.replicates}")
    compared = members.find(arguments.runs, arguments.each, [arguments.against] if arguments.against else [])
    if arguments.against is None:
        compared, left_out = members.begun(compared)
        result = comparison.compare(compared, arguments.bins, arguments.threshold, arguments.replicates)
        result["notes"] += left_out
    elif len(compared) != 1:
        raise UsageError(f"--against wants one run (or the seeds of one), got {len(compared)}")
    else:
        result, nearest = rank_against(arguments, compared[0])
        compared += nearest
    tables = [arguments.table] if arguments.table else [name for name in comparison_text.TITLES if name in result]
    if tables[0] not in result:
        verb = "needs" if tables[0] == "ranking" else "does not go with"
        raise UsageError(f"--table {tables[0]} {verb} --against")
    if arguments.figure is not None:
        from mnemo.figures import presentations

        presentations.draw_to(arguments.figure, compared, arguments.bins)
        print(arguments.figure, file=sys.stderr)
    comparison_text.write(result, arguments.format, tables, sys.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
