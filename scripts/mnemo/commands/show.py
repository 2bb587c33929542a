"""`mnemo show`: a page of text on a run; its numbers as CSV or NumPy archive."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnemo import command, files, runs, tables
from mnemo.errors import UsageError
from mnemo.runs import Run


def summary(run: Run) -> str:
    """A page of text: what ran, how far it is, and where each set stands against the Bayes limits."""
    status, metrics = run.status, run.metrics
    switches = ", ".join(f"step {entry['step']} (to phase {entry['phase']})" for entry in run.switches)
    steps = status.get("steps", run.config["train"].get("steps", "?"))
    lines = [
        f"run       {run.name}",
        f"model     {run.settings_line()}",
        f"state     {status.get('state', 'unknown')}, step {status.get('step', '?')} of {steps}",
        f"switches  {switches or 'none'}",
    ]
    if len(metrics["step"]):
        last = {name: column[-1] for name, column in metrics.items()}
        at = f"at step {last['step']}, {last['draws']} draws"
        lines.append(f"train     loss {last['train_loss']:.4f}, accuracy {last['train_accuracy']:.4f} {at}")
    names = ", ".join([*run.snapshots, *(["final"] if run.final else [])])
    lines.append(f"weights   {names or 'none'}")
    names = (name for name in tables.names(run) if name not in run.sets)
    further = dict.fromkeys("by_position/SET" if name.startswith("by_position/") else name for name in names)
    lines += [f"further   {', '.join(further)}"] if further else []
    if run.sets:
        width = max(8, *(len(name) for name in run.sets))
        titles = f"{'rows':>5} {'ranks':>7} {'step':>9} {'loss':>8} {'floor':>8} {'acc.':>7} {'ceiling':>8}"
        titles += " completed" if any("completed" in columns for columns in run.sets.values()) else ""
        lines += ["", f"{'set':{width}} {titles}", *(_summary_row(run, name, width) for name in run.sets)]
        lines += ["loss (nats) and accuracy: means over the ranks at the last row; floor, ceiling: Bayes, same ranks"]
        never = max(np.count_nonzero(~run.scored(name)) for name in run.sets)
        if never:
            lines += [f"up to {never} ranks of a set have probability 0: they are never drawn, and in no mean"]
    return "\n".join(lines) + "\n"


def _summary_row(run: Run, name: str, width: int) -> str:
    columns, counted = run.sets[name], run.scored(name)
    start = f"{name:{width}} {len(columns['step']):5} {np.count_nonzero(counted):7}"
    if not len(columns["step"]) or not counted.any():
        return f"{start} {'-':>9} {'-':>8} {'-':>8} {'-':>7} {'-':>8}"
    loss, accuracy = (float(columns[key][-1][counted].mean(dtype=np.float64)) for key in ("loss", "accuracy"))
    bounds = run.limits(name, int(columns["phase"][-1]))
    floor, ceiling = ("-", "-") if bounds is None else (f"{bound[counted].mean():.4f}" for bound in bounds)
    completed = f" {columns['completed'][-1][counted].mean():9.4f}" if "completed" in columns else ""
    return f"{start} {columns['step'][-1]:9} {loss:8.4f} {floor:>8} {accuracy:7.4f} {ceiling:>8}{completed}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnemo show",
        description="Summary of a mnemo run directory; its numbers as CSV or NumPy archive. Changes nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  mnemo show cache/zipf/zipf                                 what ran, and where it stands
  mnemo show cache/zipf/zipf --csv metrics.csv               a line per log line
  mnemo show cache/zipf/zipf --csv train.csv --set train     a line per evaluation and rank
  mnemo show cache/zipf/zipf --csv - --set phase_0 | head    to the terminal
  mnemo show RUN --csv p.csv --set by_position/phase_0       a line per evaluation, rank bin and position
  mnemo show cache/zipf/zipf --npz run.npz                   everything numeric: np.load("run.npz")["sets/train/loss"]

exit codes: 0 done, 64 usage, 65 corrupt data, 74 a file is missing, or cannot be read or written""",
    )
    parser.add_argument("run", metavar="RUN", type=command.path_argument, help="run directory, such as cache/GROUP/RUN")
    parser.add_argument(
        "--csv",
        metavar="OUT",
        type=command.path_argument,
        help="write metrics.jsonl, or with --set a set, as CSV; - is stdout",
    )
    parser.add_argument(
        "--set",
        metavar="NAME",
        help="with --csv, instead of the metrics: train, phase_0, novel, ...; "
        "by_position/SET, attention/NAME, measures where the run has them",
    )
    parser.add_argument(
        "--npz", metavar="OUT", type=command.path_argument, help="write everything numeric as a NumPy archive"
    )
    return parser


def act(arguments: argparse.Namespace) -> None:
    if arguments.set and not arguments.csv:
        raise UsageError("--set goes with --csv")
    run = runs.open_run(arguments.run)
    what = arguments.set or "metrics"
    if what not in ("metrics", *tables.names(run)):
        known = ", ".join(tables.names(run)) or "none yet"
        raise UsageError(f"{arguments.run} has no set {what!r}; it has: {known}")
    if arguments.csv == Path("-"):
        tables.write_csv(run, what, sys.stdout)
    elif arguments.csv:
        files.write_atomically(arguments.csv, lambda file: tables.write_csv(run, what, file), binary=False)
        print(arguments.csv)
    if arguments.npz:
        files.write_atomically(arguments.npz, lambda file: np.savez(file, **tables.flatten(run)))
        print(arguments.npz)
    if not arguments.csv and not arguments.npz:
        sys.stdout.write(summary(run))


def main(argv: Sequence[str] | None = None) -> int:
    return command.carry_out(_parser(), act, argv)
