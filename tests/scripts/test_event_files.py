"""`mnemo export --tensorboard`: what TensorBoard's own reader finds in the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_run import never_drawn

from mnemo.commands import export_tensorboard

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder):
    found = accumulator.EventAccumulator(str(folder), {accumulator.SCALARS: 0, accumulator.TENSORS: 0})
    return found.Reload()


def test_curves_come_back(run_dir, tmp_path):
    (run_dir / "meta.json").write_text(json.dumps({"start": "2026-01-02T03:04:05Z"}))
    (run_dir / "timing.jsonl").write_text('{"time": 1767323145, "step": 1000}\n{"time": 1767324')
    never_drawn(run_dir, 150)
    assert export_tensorboard.main([str(tmp_path / "logs"), str(run_dir)]) == 0
    found = read(tmp_path / "logs/run")
    rank = np.arange(150)
    for key in ("loss", "accuracy"):
        array = np.load(run_dir / f"eval/phase_0/{key}.npy")[:, rank]
        events = found.Scalars(f"{key}/phase_0")
        assert [event.step for event in events] == np.load(run_dir / "eval/phase_0/step.npy").tolist()
        np.testing.assert_allclose([event.value for event in events], array.mean(axis=1), rtol=1e-6)
        events = found.Scalars(f"{key} by rank/phase_0, ranks 10-99")
        np.testing.assert_allclose([event.value for event in events], array[:, 10:100].mean(axis=1), rtol=1e-6)
    training = found.Scalars("training/loss")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([event.value for event in training], [line["train_loss"] for line in lines], rtol=1e-6)
    times = {event.step: event.wall_time for event in training}
    assert times[1000] == 1767323145 and times[500] == 1767323145 - 50  # half way from the start, at 03:04:05
    (text,) = found.Tensors("configuration/text_summary")[0].tensor_proto.string_val
    assert (run_dir / "config.yaml").read_bytes() in text
    assert "_hparams_/session_start_info" in found.Tags()["tensors"]


def test_a_second_call_replaces_the_file(run_dir, tmp_path, capsys):
    arguments = [str(tmp_path / "logs"), str(run_dir)]
    assert export_tensorboard.main(arguments) == 0
    (path,) = (tmp_path / "logs").rglob("*tfevents*")
    before = path.read_bytes()
    assert export_tensorboard.main(arguments) == 0
    assert [*(tmp_path / "logs").rglob("*tfevents*")] == [path] and path.read_bytes() == before
    assert capsys.readouterr().out.splitlines() == [str(path)] * 2


def test_a_corrupt_run_is_named_and_the_rest_is_written(make_run, tmp_path):
    make_run("g/a")
    broken = make_run("g/b")
    (broken / "eval/train/loss.npy").write_bytes(b"junk")
    with pytest.raises(ValueError, match="loss.npy: not a .npy file"):
        export_tensorboard.main([str(tmp_path / "logs"), str(tmp_path / "g")])
    assert [path.parent.name for path in (tmp_path / "logs").rglob("*tfevents*")] == ["a"]
    (broken / "eval/train/loss.npy").unlink()
    with pytest.raises(ValueError, match=rf"^{broken}/eval/train/loss.npy: No such file or directory$"):
        export_tensorboard.main([str(tmp_path / "logs"), str(tmp_path / "g")])
