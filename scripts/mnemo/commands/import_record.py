"""`mnemo import`: an old notebook record becomes a run directory."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

from mnemo import command
from mnemo.errors import CannotCreate
from mnemo.records.convert import import_record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo import",
        description="Turn an old notebook record into a run directory for compare, plot and show; runs nothing in it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo import old/run.pkl                     writes cache/imported/run
  mnemo import old/dam_0.pt --to cache/old/dam_0

exit codes: 0 done, 64 usage, 65 no record that can be mapped (the reason is said), 73 the directory exists, 74 I/O""",
    )
    parser.add_argument(
        "record", metavar="OLD.pkl", type=command.path_argument, help="record of a transformer (.pkl) or a DAM (.pt)"
    )
    parser.add_argument(
        "--to", metavar="DIR", type=command.path_argument, help="run directory to write (default cache/imported/NAME)"
    )
    return parser


def act(arguments: argparse.Namespace) -> None:
    cache = command.cache_folder()
    folder = arguments.to or cache / "imported" / arguments.record.stem
    if folder.exists():
        raise CannotCreate(f"{folder}: exists; --to names another directory")
    for what in import_record(arguments.record, folder):
        print(f"left out: {what}")
    print(f"results: {folder}")
    program, verb = os.environ.get("MNEMO_PROGRAM", "mnemo"), "compare" if (folder / "eval").is_dir() else "show"
    print(f"next:    {shlex.quote(program)} {verb} {shlex.quote(str(folder.resolve()))}")


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
