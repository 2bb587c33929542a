"""`mnemo export --tensorboard`: runs as event files for TensorBoard."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mnemo import command, curves, event_files, members
from mnemo.runs import open_run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export_tensorboard.py",
        description="Write runs as event files: `mnemo export --tensorboard DIR RUN...` calls this.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  export_tensorboard.py logs cache/sweep_lr             logs/<run>/events.out.tfevents.0.mnemo of each run
  tensorboard --logdir logs

What cannot be read is named, and the rest is written; a second call replaces the files.
exit codes: 0 done, 64 usage, 65 something could not be read, 73 no tensorboard, 74 I/O""",
    )
    parser.add_argument("folder", metavar="DIR", type=command.path_argument, help="folder of the logs")
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=command.path_argument, help="run directory, or a folder of runs"
    )
    parser.add_argument(
        "--bins", metavar="A,B,...", type=command.argument(curves.parse_edges), help="edges of rank bins"
    )
    return parser


def act(arguments: argparse.Namespace) -> None:
    event_files.require_tensorboard()
    paths = list(dict.fromkeys(path for argument in arguments.runs for path in members.runs_in(argument)))
    problems = []
    for path, name in zip(paths, members.short_names(paths)):
        try:
            run = open_run(path).load()
        except (ValueError, OSError) as error:
            problems.append(command.one_line(error))
            continue
        print(event_files.write(run, arguments.folder / name, arguments.bins))
    command.fail_with(problems)


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
