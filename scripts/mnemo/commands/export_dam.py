"""`mnemo export` of a DAM: the torch archives that notebooks load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mnemo import command
from mnemo.errors import UsageError, not_installed
from mnemo.records import dam


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_dam.py",
        description="Write DAM runs as torch archives for notebooks; `mnemo export` names the archives and calls this.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  export_dam.py cache/dam_switch/dam_switch out/dam_switch/dam_0.pt

exit codes: 0 done, 64 usage, 65 the run has not what a record holds (the reason is said), 73 no torch, 74 I/O""",
    )
    parser.add_argument(
        "words", metavar="RUN RECORD", nargs="+", type=command.path_argument, help="run directory, archive to write"
    )
    return parser


def act(arguments: argparse.Namespace) -> None:
    words = arguments.words
    if len(words) % 2:
        raise UsageError("each RUN must be followed by the RECORD to write")
    try:
        import torch  # noqa: F401 (asked for before anything is read)
    except ImportError:
        raise not_installed("torch", "a DAM's record is a torch archive, but torch") from None
    for run, target in zip(words[::2], words[1::2]):
        for remark in dam.export(run, target):
            command.note(f"{run}: {remark}")
        print(target)
        print(f"load it with torch.load({str(target)!r}, weights_only=False)", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
