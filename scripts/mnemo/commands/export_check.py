"""`mnemo export --check`: records against what notebooks read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mnemo import command
from mnemo.errors import EXIT_DATA, DataError
from mnemo.records import check

MOST_PROBLEMS = 20  # that are printed of a file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo export --check",
        description="Check exported records against what notebooks read, and say what would fail.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo export --check out                           every record in a tree
  mnemo export --check cache/switch/switch           the pickles in a run directory

exit codes: 0 all hold, 64 usage, 65 something would fail, 74 a file is missing or cannot be read""",
    )
    parser.add_argument("tree", metavar="TREE", type=command.path_argument, help="exported tree, group, run or file")
    return parser


def act(arguments: argparse.Namespace) -> int:
    if not arguments.tree.exists():
        raise FileNotFoundError(2, "no such file or directory", str(arguments.tree))
    files = check.records_in(arguments.tree)
    if not files:
        raise DataError(f"{arguments.tree}: holds no .pkl and no .pt")
    failed = 0
    for path in files:
        try:
            kind, problems = check.check_file(path)
        except ValueError as error:
            kind, problems = "unreadable", [str(error)]
        failed += bool(problems)
        print(f"{'FAILS' if problems else 'ok':5}  {path}  ({kind})")
        for problem in problems[:MOST_PROBLEMS]:
            print(f"       {problem}")
        if len(problems) > MOST_PROBLEMS:
            print(f"       ... and {len(problems) - MOST_PROBLEMS} more")
    print(f"{len(files) - failed} of {len(files)} files hold")
    return EXIT_DATA if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
