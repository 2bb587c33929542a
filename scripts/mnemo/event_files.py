"""Runs as the event files that TensorBoard reads. Needs the package tensorboard, whose writer needs no torch.

Tags: training/loss, training/accuracy, training/lr of log lines; loss/SET and accuracy/SET at evaluations, means over
the ranks that are ever drawn, and loss by rank/SET, ranks 0-9 and the like of rank bins; config.yaml as text, and the
settings for the page HPARAMS. Wall times are those of timing.jsonl, in between by step.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import curves
from mnemo.errors import CannotCreate
from mnemo.files import parse_json, read_text, write_atomically
from mnemo.runs import Run

FILE_NAME = "events.out.tfevents.0.mnemo"  # one name, so that a second export replaces the first
TRAINING = {"train_loss": "training/loss", "train_accuracy": "training/accuracy", "lr": "training/lr"}
Scalar = tuple  # (tag, step (N,), value (N,))


def require_tensorboard() -> None:
    """Raises CannotCreate where the package is missing."""
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError:
        raise CannotCreate(
            "event files need the package tensorboard, which is not installed here: pip install tensorboard, or let "
            "MNEMO_PYTHON name a Python that has it"
        ) from None


def scalars(run: Run, edges: Sequence[int] | None = None) -> Iterator[Scalar]:
    """All curves of a run; two rows at one step are those before and after its events."""
    for column, tag in TRAINING.items():
        yield tag, run.metrics["step"], run.metrics[column]
    for name, columns in curves.only_drawn(run).sets.items():
        rank, step = columns["rank"], columns["step"]
        if not len(step) or not len(rank):
            continue
        whole = (0, int(rank.max()) + 1)
        bins = curves.bins_with(rank, curves.rank_bins(whole[1], edges))
        for key in ("loss", "accuracy"):
            means = curves.bin_mean(columns[key], rank, [whole, *bins])
            yield f"{key}/{name}", step, means[:, 0]
            for index, ranks in enumerate(bins, 1):
                yield f"{key} by rank/{name}, {curves.bin_label(ranks)}", step, means[:, index]


def wall_times(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(step, seconds since 1970) between which times are interpolated: the start of the run, and timing.jsonl."""
    try:
        start = datetime.datetime.fromisoformat(str(run.meta.get("start")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        start = 0.0
    known = {0: start}
    path = run.path / "timing.jsonl"
    for number, line in enumerate(read_text(path).split("\n")[:-1] if path.is_file() else [], 1):
        entry = parse_json(line, f"{path}:{number}")
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            known[entry["step"]] = float(entry.get("time", start))
    return np.array(sorted(known)), np.array([known[step] for step in sorted(known)])


def write(run: Run, folder: Path, edges: Sequence[int] | None = None) -> Path:
    """Writes a run as `folder`/events.out.tfevents.0.mnemo, in one move; equal runs give equal bytes.

    Raises
    ------
    CannotCreate
        Without the package tensorboard.
    """
    require_tensorboard()
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    at_step, at_time = wall_times(run)

    def put(file: Any) -> None:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=at_time[0], file_version="brain.Event:2").SerializeToString())
        for summary in _settings(run, at_time[0]):
            writer.write(Event(wall_time=at_time[0], step=0, summary=summary).SerializeToString())
        for tag, steps, values in scalars(run, edges):
            times = np.interp(steps, at_step, at_time)
            for step, value, time in zip(steps.tolist(), values.tolist(), times.tolist()):
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                writer.write(Event(wall_time=time, step=step, summary=summary).SerializeToString())

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    write_atomically(path, put)
    return path


def _settings(run: Run, start: float) -> Iterator[Any]:
    """The settings as hyperparameters, and config.yaml as a text."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.metadata import create_summary_metadata

    known = {key: value for key, value in run.settings.items() if value is not None}
    plain = (bool, int, float, str)
    values = {key: value if isinstance(value, plain) else json.dumps(value) for key, value in known.items()}
    yield hparams_pb(values, trial_id=str(run.path.resolve()), start_time_secs=start)
    text = "\n".join(f"    {line}" for line in read_text(run.path / "config.yaml").splitlines())  # Markdown's code
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    metadata = create_summary_metadata(display_name="configuration", description="")
    yield Summary(value=[Summary.Value(tag="configuration/text_summary", metadata=metadata, tensor=tensor)])
