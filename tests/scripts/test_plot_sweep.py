from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import mnemo_io
import numpy as np
import plot_run
import pytest
import sweep_figure
import sweep_runs
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_run import REPOSITORY, example_config, overprinted, write_settings

NUM_SEQUENCES = 40
FLOOR, CEILING = 0.2 + 0.4 * np.arange(40) / 39, 0.9 - 0.3 * np.arange(40) / 39
RANKS = np.arange(0, 40, 4)


def write_member(path, loss, accuracy, state="done", names=("train",), **settings):
    """A run directory with two evaluations, the last of mean `loss` and `accuracy`; waiting: its config.yaml alone."""
    path.mkdir(parents=True)
    config = example_config(NUM_SEQUENCES, 16, 2000, [])
    for block in (config["train"], config["model"], config):
        block.update({key: value for key, value in settings.items() if key in block})
    if state == "waiting":
        (path / "config.yaml").write_text(json.dumps(config))
        return
    write_settings(path, config)
    (path / "status.json").write_text(json.dumps({"state": state, "step": 2000, "steps": 2000, "loss": 0.1}))
    for name in names:
        folder = path / "eval" / name
        folder.mkdir(parents=True)
        wobble = np.linspace(-0.1, 0.1, len(RANKS))
        columns = {"loss": np.stack([0.7 + 0 * wobble, loss + wobble]).astype(np.float32),
                   "accuracy": np.stack([0.5 + 0 * wobble, accuracy - wobble]).astype(np.float32),
                   "presentations": np.zeros((2, len(RANKS)), np.int64), "step": np.array([0, 2000]),
                   "last_seen": np.zeros((2, len(RANKS)), np.int64), "phase": np.zeros(2, np.int64),
                   "moment": np.zeros(2, np.uint8), "rank": RANKS}  # fmt: skip
        for key, array in columns.items():
            np.save(folder / f"{key}.npy", array)
    (path / "theory").mkdir()
    np.save(path / "theory/phase_0.npy", np.stack([FLOOR, CEILING], axis=1))


@pytest.fixture
def make_sweep(tmp_path):
    """A function that writes a sweep: make_sweep({key: values, ...}, result) with result(values) -> loss[, state]."""

    def make(axes, result=lambda values: 0.5, name="grid", **options):
        return write_sweep(tmp_path / name, [dict(zip(axes, point)) for point in itertools.product(*axes.values())],
                           result, **options)  # fmt: skip

    return make


def write_sweep(folder, points, result=lambda values: 0.5, **options):
    lines = []
    for values in points:
        found = result(values)
        loss, state = found if isinstance(found, tuple) else (found, "done")
        name = ",".join(f"{key}={value}" for key, value in sorted(values.items())).replace("/", "_")
        settings = {key.rsplit(".", 1)[-1]: value for key, value in values.items()}
        write_member(folder / name, loss, 1 - loss / 1.5, state, **{**options, **settings})
        lines.append(json.dumps({"run": name, "id": "0" * 32, "values": {key: str(v) for key, v in values.items()}}))
    (folder / ".sweep").mkdir()
    (folder / ".sweep/manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder
