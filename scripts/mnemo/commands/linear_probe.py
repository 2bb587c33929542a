"""`linear_probe.py`: how separable novel sequences are in the features that a run has written."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from mnemo import command, probes
from mnemo.errors import UsageError
from mnemo.records import linear_probes
from mnemo.runs import Run, open_run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linear_probe.py",
        description="Fit linear probes (logistic regression, L2, C = 1) to the hidden features of a run, "
        "layer by layer, and print them beside its fork probes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  scripts/linear_probe.py cache/fork_probe/fork_probe
  scripts/linear_probe.py cache/fork_probe/fork_probe --target next_bit --format csv
  scripts/linear_probe.py cache/fork_probe/fork_probe --record     also into the run's pickle, for notebooks

target sequence: which novel sequence is it? Fitted at every other position, scored at the others: separable from what
has been read at one place to what has been read at another. target next_bit: fitted to every other sequence; the others
are a control, 1/2 in a sound network, and `fitted` is how separable the bits are.
layer 0 is what enters the MLP, j what leaves its layer j.
exit codes: 0 done, 64 usage, 65 corrupt data or no features, 73 no scikit-learn, 74 a file is missing""",
    )
    parser.add_argument("run", metavar="RUN", type=command.path_argument, help="run directory with features/")
    parser.add_argument("--target", choices=probes.TARGETS, help="only this one (default both)")
    parser.add_argument(
        "--sequences", metavar="S", type=int, default=100, help="novel sequences to tell apart (default 100)"
    )
    parser.add_argument("--format", choices=("table", "csv"), default="table", help="default table")
    parser.add_argument(
        "--record",
        metavar="PKL",
        type=command.path_argument,
        nargs="?",
        const=Path(),
        help="write held-out accuracies of target sequence into a notebook record too (default RUN/<run>.pkl)",
    )
    return parser


def act(arguments: argparse.Namespace) -> None:
    run = open_run(arguments.run)
    targets = [arguments.target] if arguments.target else probes.TARGETS
    if arguments.record is not None and "sequence" not in targets:
        raise UsageError("--record takes what target sequence gives, not next_bit")
    found = probes.linear_probes(run, targets, arguments.sequences)
    if arguments.record is not None:
        _fill(run, found, arguments.record)
    if arguments.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(probes.LinearProbe._fields)
        writer.writerows(found)
        return
    print(
        f"{'step':>9} {'target':<9} {'layer':>5} {'held out':>9} {'fitted':>7} {'chance':>7} {'train':>7} {'test':>7}"
    )
    for probe in found:
        print(f"{probe.step:>9} {probe.target:<9} {probe.layer:>5} {probe.accuracy:>9.3f} {probe.fitted:>7.3f} "
              f"{probe.chance:>7.3f} {probe.num_train:>7} {probe.num_test:>7}")  # fmt: skip
    for fork in probes.fork_probes(run):
        needed = f"{fork.steps_needed:.0f}" if fork.steps_needed < float("inf") else f"over {len(fork.accuracy)}"
        print(f"{fork.step:>9} fork probe {fork.name}: {needed} steps to accuracy {fork.until:g}")


def _fill(run: Run, found: Sequence[probes.LinearProbe], record: Path) -> None:
    path = run.path / f"{run.config['run']}.pkl" if record == Path() else record
    for step in linear_probes.write(path, found):
        command.note(f"{path}: has no log of step {step}: its linear probes are left out")


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
