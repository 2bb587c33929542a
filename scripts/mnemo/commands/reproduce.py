"""`mnemo reproduce`: makes a figure from nothing, and says how it differs from what is expected."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mnemo import command, engine, reproduce
from mnemo.errors import UsageError
from mnemo.expectations import Verdict

HEADINGS = ("what", "measured", "expected", "verdict", "source")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo reproduce",
        description="Make figures from nothing: train what is missing, draw, and print measured beside expected.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo reproduce                              which figures there are
  mnemo reproduce overlay --small              the CPU-size twin, in minutes: the shape is expected, not the numbers
  mnemo reproduce all --small                  all of them, one after another
  mnemo reproduce 4 --dry-run                  what the full size would run, and what it costs (an estimate)
  mnemo reproduce 4 --launcher slurm           on a cluster; the same command draws once the runs are done

Interrupted, the same command goes on. Runs are those of `mnemo train` and `mnemo sweep`, in the same folders.
exit codes: 0 done (whether as expected or not), 64 usage, 65 runs that are not done, 75 stopped; else the engine's""",
    )
    parser.add_argument("figures", metavar="FIGURE", nargs="*", help="names from the list, or all")
    parser.add_argument("--small", action="store_true", help="the CPU-size twin instead of the full size")
    parser.add_argument("--list", action="store_true", help="which figures there are, and what they are made from")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and the estimate, and do nothing")
    parser.add_argument(
        "--cache", metavar="DIR", type=command.path_argument, help="folder of all results ($MNEMO_CACHE, ./cache)"
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=command.path_argument,
                        help="of one figure: .png, .pdf or .svg (default CACHE/figures/NAME.png)")  # fmt: skip
    parser.add_argument("--launcher", choices=("local", "slurm"), help="where sweeps run (default local)")
    parser.add_argument("--jobs", metavar="N", type=int, help="runs of a sweep at a time")
    return parser


def listing() -> str:
    """A line a figure: name, title, configurations of both sizes, and what the full size takes."""
    lines = []
    for entry in reproduce.FIGURES:
        lines.append(f"{entry.name:<11}{entry.title}")
        lines.append(f"{'':<11}--small  {', '.join(entry.small)}")
        lines.append(f"{'':<11}full     {', '.join(entry.full)}: {reproduce.hours_text(entry)}")
    return "\n".join([*lines, "", f"GPU hours are {reproduce.HOURS}"])


def table(verdicts: Sequence[Verdict]) -> str:
    """Aligned columns."""
    lines = [HEADINGS, *(tuple(verdict) for verdict in verdicts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def summary(entry: reproduce.Figure, small: bool, result: reproduce.Result) -> str:
    """The table of a figure under its name, and in a sentence where it differs."""
    differing = [verdict.what for verdict in result.verdicts if not verdict.holds]
    count = len(result.verdicts)
    last = (
        f"as expected in all {count}"
        if not differing
        else f"differs in {len(differing)} of {count}: {'; '.join(differing)}"
    )
    size = "small: the shape is expected, not the number" if small else "full size"
    return f"figure {entry.name} ({size}): {entry.title}\n{table(result.verdicts)}\n{last}\nfigure: {result.path}"


def _plan(entry: reproduce.Figure, small: bool, cache: Path, options: Sequence[str]) -> str:
    commands = [engine.command_of(engine.configuration(name), cache, options) for name in entry.configurations(small)]
    cost = "minutes on two cores" if small else reproduce.hours_text(entry)
    cost += "" if small or not entry.gpu_hours else f" ({reproduce.HOURS})"
    return "\n".join(
        [f"figure {entry.name}: {cost}", *("  " + " ".join(map(shlex.quote, words)) for words in commands)]
    )


def act(arguments: argparse.Namespace) -> None:
    if arguments.list or not arguments.figures:
        print(listing())
        return
    chosen = reproduce.names() if arguments.figures == ["all"] else arguments.figures
    entries = [reproduce.figure(name) for name in dict.fromkeys(chosen)]
    if arguments.output and len(entries) > 1:
        raise UsageError("-o names the file of one figure, got several figures")
    cache = arguments.cache or command.cache_folder()
    options = ["--launcher", arguments.launcher] if arguments.launcher else []
    options += ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    for entry in entries:
        if arguments.dry_run or not arguments.small:
            print(_plan(entry, arguments.small, cache, options), file=sys.stdout if arguments.dry_run else sys.stderr)
        if arguments.dry_run:
            continue
        default = cache / "figures" / f"{entry.name}{'_small' if arguments.small else ''}.png"
        result = reproduce.make(entry, arguments.small, cache, arguments.output or default, options)
        print(summary(entry, arguments.small, result) + ("\n" if entry is not entries[-1] else ""), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
