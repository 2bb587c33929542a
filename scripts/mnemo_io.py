#!/usr/bin/env python3
"""The reader of run directories as notebooks know it, and `mnemo show`. New code: `mnemo.runs`.

    import mnemo_io
    run = mnemo_io.read_run("cache/freeze_attention/freeze_attention")
    run["metrics"]["train_loss"]                    # (N,) one value a log line
    run["sets"]["train"]["accuracy"]                # (T, S) evaluation x rank
    mnemo_io.to_frame(run, "phase_0")               # long pandas table
"""

# ruff: noqa: F401, I001 (names for others)
from __future__ import annotations

import sys
from operator import attrgetter

from mnemo import runs
from mnemo.command import argument, expanded_path, guarded, parse_arguments, path_argument, usage_error
from mnemo.commands.show import main, summary
from mnemo.errors import EXIT_BROKEN_PIPE, EXIT_CONFIG, EXIT_DATA, EXIT_IO, EXIT_STOPPED, EXIT_USAGE
from mnemo.files import (
    SAFETENSORS_DTYPES, PathLike, read_json, read_npy, read_safetensors, read_safetensors_metadata, read_text,
    write_atomically,
)  # fmt: skip
from mnemo.runs import (
    METRIC_COLUMNS, ROW_COLUMNS, SET_COLUMNS, Run, drawn_ranks, find_runs, read_metrics, read_run_json, read_sequences,
    read_series, read_snapshots, read_switches, read_theory, set_order, set_phase,
)  # fmt: skip
from mnemo.tables import Table, flatten, long_form, table, to_frame, write_csv
from mnemo.tables import names as table_names

run_name, num_sequences = attrgetter("name"), attrgetter("num_sequences")
limits, scored, settings_line = Run.limits, Run.scored, Run.settings_line


def read_run(path: PathLike) -> Run:
    """Everything in a run directory, read at once: `run["sets"]["train"]["loss"]`; its parts are those of `Run`."""
    return runs.open_run(path).load()


def read_set(path: PathLike) -> dict:
    """`runs.read_set`, all of it."""
    return dict(runs.read_set(path))


def read_sets(run: PathLike) -> dict[str, dict]:
    """`runs.read_sets`, all of them."""
    return {name: dict(columns) for name, columns in runs.read_sets(run).items()}


if __name__ == "__main__":
    sys.exit(guarded(main))
