"""evaluate, theory, config, doctor: what they print and write, against the files of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BINARY, DATA, DONE, USAGE, Place, call, environment, make_place, mnemo_io, start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = make_place(tmp_path_factory.mktemp("commands"), 200)
    assert place.train().returncode == DONE
    return place


def mnemo(*arguments: object, code: int = DONE) -> str:
    done = call([str(BINARY), *map(str, arguments)])
    assert done.returncode == code, done.stderr
    return done.stdout if code == DONE else done.stderr


def test_evaluate_gives_the_last_row_of_every_set(place: Place, tmp_path: Path) -> None:
    mnemo("evaluate", place.run, "--out", tmp_path)
    run = mnemo_io.read_run(place.run)
    for name in ("phase_0", "phase_1", "novel"):
        assert np.array_equal(np.load(tmp_path / name / "rank.npy"), run["sets"][name]["rank"])
        for column in ("loss", "accuracy"):
            assert np.array_equal(np.load(tmp_path / name / f"{column}.npy"), run["sets"][name][column][-1])


def test_evaluate_a_snapshot_gives_the_row_before_the_switch(place: Place, tmp_path: Path) -> None:
    mnemo("evaluate", place.run, "--weights", "before", "--out", tmp_path)
    columns = mnemo_io.read_run(place.run)["sets"]["phase_0"]
    before = np.flatnonzero(columns["step"] == 100)[0]
    assert np.array_equal(np.load(tmp_path / "phase_0/loss.npy"), columns["loss"][before])


def test_evaluate_own_sequences(place: Place, tmp_path: Path) -> None:
    phase_1 = np.load(place.run / "sequences/phase_1.npy")
    np.save(tmp_path / "mine.npy", phase_1[[3, 0]].astype(np.int64))
    mnemo("evaluate", place.run, "--sequences", tmp_path / "mine.npy", "--out", tmp_path)
    last = mnemo_io.read_run(place.run)["sets"]["phase_1"]["loss"][-1]
    assert np.allclose(np.load(tmp_path / "mine/loss.npy"), last[[3, 0]], rtol=1e-5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 9), np.int64), "expected shape (K, 8)"),
        (np.full((2, 8), 2), "holds 2 at row 0, column 0; expected bits 0 and 1"),
        (np.zeros((2, 8)), "holds floating-point numbers"),
    ],
)
def test_evaluate_refuses_other_arrays(place: Place, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "bad.npy", array)
    assert message in mnemo("evaluate", place.run, "--sequences", tmp_path / "bad.npy", code=DATA)


def test_own_weights_rank_the_sequences_for_every_command(tmp_path: Path) -> None:
    place, generator = make_place(tmp_path, 40), np.random.default_rng(0)
    bits, weights = generator.integers(0, 2, (20, 8)), generator.permutation(20).astype(float)
    weights[[3, 4, 5]] = 0, 0, weights.max()
    np.save(tmp_path / "bits.npy", bits)
    np.save(tmp_path / "weights.npy", weights)
    text = place.config.read_text().replace("{num_sequences: 20, length: 8}", "{file: bits.npy, weights: weights.npy}")
    place.config.write_text(text.replace("log_every: 7", "log_every: 20"))
    assert place.train().returncode == DONE
    run, rows = mnemo_io.read_run(place.run), np.load(place.run / "data_rows.npy")
    assert rows.dtype == np.int64 and rows.tolist() == np.argsort(-weights, kind="stable").tolist()
    assert np.array_equal(run["sequences"][0], bits[rows])
    never = weights[rows] == 0
    counts = run["sets"]["phase_0"]["presentations"]
    assert never.any() and (counts[:, never] == 0).all() and (counts[-1, :5] > 0).all()

    mnemo("evaluate", place.run, "--out", tmp_path / "scores")
    for name in ("phase_0", "phase_1"):
        assert np.array_equal(np.load(tmp_path / "scores" / name / "loss.npy"), run["sets"][name]["loss"][-1])
    text = mnemo("theory", place.config)
    assert "inf" not in text and "nan" not in text and f"{never.sum()} sequences have probability 0" in text
    mnemo("export", place.run)
    (place.run / "data_rows.npy").unlink()  # as of a version whose ranks were rows
    for command in ("evaluate", "export"):
        assert "its ranks are not those that" in mnemo(command, place.run, code=DATA)


def test_evaluate_names_what_is_missing(place: Place, tmp_path: Path) -> None:
    assert "no snapshot of this run" in mnemo("evaluate", place.run, "--weights", "nothing", code=DATA)
    assert "is no run directory" in mnemo("evaluate", tmp_path, code=DATA)


def test_export_tells_a_diverged_run_from_an_unfinished_one(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place.run, run)
    status = json.loads((run / "status.json").read_text()) | {"step": 120}
    (run / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
    assert f"To go on with it:\n  {BINARY} train {run / 'config.yaml'}\n" in mnemo("export", run, code=DATA)
    (run / "status.json").write_text(json.dumps(status | {"state": "diverged"}))
    message = mnemo("export", run, code=DATA)
    assert "diverged at step 120 and is not resumed" in message and "go on" not in message


def test_theory_is_what_the_run_wrote(place: Place) -> None:
    written = json.loads((place.run / "theory.json").read_text())["phases"]
    for phase in (0, 1):
        printed = json.loads(mnemo("theory", place.config, "--phase", phase, "--json"))
        assert printed["loss_floor"] == pytest.approx(written[phase]["loss_floor"])
        assert printed["accuracy_ceiling"] == pytest.approx(written[phase]["accuracy_ceiling"])
    assert "loss floor" in mnemo("theory", place.config)


def test_config_prints_what_the_run_keeps(place: Place) -> None:
    assert mnemo("config", place.config) == (place.run / "config.yaml").read_text()
    fields = mnemo("config", "--fields")
    for key in ("train.lr", "data.zipf_exponent", "model.one_layer_attention.heads", "events[].freeze.params"):
        assert key in fields


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "x", "--stride", "010"], "--stride: expected an integer, got '010'; write 10"),
        (["evaluate", "x", "--stride", "0"], "--stride: must be in [1, 2147483647], got 0"),
        (["theory", "x", "--phase", "0x10"], "--phase: expected an integer, got '0x10'"),
        (["theory", "x", "--phase", "-1"], "--phase: must be in [0, 4294967295], got -1"),
        (["theory", "x", "--phase", "99999999999999999999"], "--phase: must fit into 64 bits"),
        (["train", "x", "--max-hours", "nan"], "--max-hours: expected a number, got 'nan'"),
        (["train", "x", "--max-hours", "0"], "--max-hours: must be in (0, 1000000], got 0"),
        (["export", "x", "--epoch-steps", "1_000"], "--epoch-steps: expected an integer, got '1_000'; write 1000"),
        (["bench", "dam", "--seconds", "inf"], "--seconds: expected a number, got 'inf'"),
        (["bench", "dam", "--rounds", "1.5"], "--rounds: expected an integer, got '1.5'"),
    ],
)
def test_numbers_are_written_as_in_a_configuration(arguments: list[str], message: str) -> None:
    assert message in mnemo(*arguments, code=64)


def test_a_dry_run_refuses_data_that_a_run_would(place: Place, tmp_path: Path) -> None:
    weights, bits = np.ones(20), np.zeros((20, 8), np.uint8)
    weights[3], bits[1, 2] = -1, 2
    np.save(tmp_path / "weights.npy", weights)
    np.save(tmp_path / "bits.npy", bits)
    for override, message in (("data.weights=weights.npy", "weight -1 of row 3"), ("data.file=bits.npy", "holds 2")):
        key, name = override.split("=")
        assert message in mnemo("train", place.config, f"{key}={tmp_path / name}", "--dry-run", code=DATA)


def test_a_run_says_which_seeds_it_has(place: Place) -> None:
    assert json.loads((place.run / "meta.json").read_text())["seeds"] == {"data": 0, "model": 0}
    config, facts = mnemo_io.read_run_json(place.run)
    assert config["data"]["seed"] is config["model"]["seed"] is None
    assert facts["seeds"] == {"data": 0, "model": 0}


def test_a_report_and_event_files(place: Place, tmp_path: Path) -> None:
    told = mnemo("report", place.run, "-o", tmp_path / "r.html")
    assert told == f"{tmp_path / 'r.html'}\n" and "<!DOCTYPE html>" in (tmp_path / "r.html").read_text()
    told = mnemo("export", "--tensorboard", tmp_path / "logs", place.run)
    assert [Path(line).parent for line in told.splitlines()] == [tmp_path / "logs" / place.run.name]
    assert "--tensorboard" in mnemo("export", "--tensorboard", tmp_path, place.run, "--no-sequences", code=USAGE)
    assert "runs is required" in mnemo("export", "--tensorboard", tmp_path, code=USAGE)


def test_a_run_of_an_older_version_is_completed_by_the_printed_command(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "an old run"
    shutil.copytree(place.run, run)
    expected = (run / "run.json").read_bytes()
    assert json.loads(expected) == json.loads(mnemo("config", place.config, "--json"))
    (run / "run.json").unlink()
    told = mnemo("show", run, code=DATA)
    assert told.startswith(f"error: {run}: has no run.json")
    command = told.splitlines()[1].strip()
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == DONE
    assert (run / "run.json").read_bytes() == expected
    assert "state     done" in mnemo("show", run)


@pytest.mark.parametrize(
    ("threads", "given", "expected"),
    [
        (2, {}, "passive"),
        (1, {}, None),
        (2, {"OMP_WAIT_POLICY": "active"}, "active"),
        (2, {"GOMP_SPINCOUNT": "9"}, None),
    ],
)
def test_waiting_threads_do_not_spin(threads: int, given: dict[str, str], expected: str | None) -> None:
    variables = {key: value for key, value in environment().items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [str(BINARY), "bench", "one_layer", "--config", "C", "--paced", "--threads", str(threads), *BENCH]
    with start(command, stdin=subprocess.PIPE, env={**variables, **given}) as process:
        assert process.stdout is not None and "ready" in process.stdout.readline()
        inherited = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        assert process.communicate()[1] == "" and process.returncode == DONE
    policy = [line.split(b"=")[1].decode() for line in inherited if line.startswith(b"OMP_WAIT_POLICY=")]
    assert policy == ([expected] if expected else [])


def test_doctor_says_what_there_is() -> None:
    text = mnemo("doctor")
    for word in ("compiler", "LibTorch", "CUDA", "driver", "GPU", "device auto", "scripts"):
        assert word in text


BENCH = ["--rounds", "2", "--seconds", "0.01", "--warmup", "2"]


@pytest.mark.parametrize(("benchmark", "config", "rows"), [("one_layer", "C", 32), ("evaluate", "L16", 100_000)])
def test_bench_prints_one_object_a_line(benchmark: str, config: str, rows: int) -> None:
    line = json.loads(mnemo("bench", benchmark, "--config", config, "--json", *BENCH))
    names = "name config device threads precision replicas compressed dead_units steps_per_s min max rows_per_step"
    assert list(line) == [*names.split(), "peak_rss_mb"]
    assert (line["name"], line["config"], line["compressed"], line["rows_per_step"]) == (benchmark, config, True, rows)
    assert 0 < line["min"] <= line["steps_per_s"] <= line["max"] and line["peak_rss_mb"] > 1


def test_bench_losses_do_not_depend_on_the_savings(tmp_path: Path) -> None:
    forms = {"all": [], "cells": ["--plain-cells"], "units": ["--all-units"]}
    for name, flags in forms.items():
        mnemo("bench", "one_layer", "--config", "C", "--dump", tmp_path / name, *flags, *BENCH)
    losses = {name: np.load(tmp_path / name / "losses.npy") for name in forms}
    assert len(losses["all"]) == 20 and losses["all"][-1] < losses["all"][0] < 0.7
    for name in forms:
        assert np.allclose(losses[name], losses["all"], rtol=1e-5, atol=0)
    assert np.load(tmp_path / "all/batches.npy").shape == (512, 32)


def test_bench_dumps_every_replica(tmp_path: Path) -> None:
    for name, replicas in (("one", 1), ("three", 3)):
        mnemo("bench", "one_layer", "--config", "C", "--replicas", replicas, "--dump", tmp_path / name, *BENCH)
    batches, losses = (
        [np.load(tmp_path / name / f"{file}.npy") for name in ("one", "three")] for file in ("batches", "losses")
    )
    assert batches[1].shape == (512, 3, 32) and losses[1].shape == (20, 3)
    assert (batches[1][:, 0] == batches[0]).all()
    assert np.allclose(losses[1][:, 0], losses[0], rtol=1e-5, atol=0)
    weights = [mnemo_io.read_safetensors(tmp_path / f"three/weights{r}.safetensors") for r in ("", "_1", "_2")]
    assert len({w["wte.weight"].tobytes() for w in weights}) == 3


def test_bench_takes_tf32_on_a_gpu_alone() -> None:
    assert "precision tf32 is of a GPU" in mnemo("bench", "dam", "--precision", "tf32", *BENCH, code=78)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one_layer", "--config", "Z"], "bench one_layer has no configuration 'Z'"),
        (["dance"], "dance not in"),
        (["one_layer", "--dump", "x"], "--config"),
    ],
)
def test_bench_refuses(arguments: list[str], message: str) -> None:
    assert message in mnemo("bench", *arguments, code=64)


NUMBERLIKE = "e1 E7 e-3 e5.5 e1e1 1e3 1e-08 1.e5 1e400 0 00 -0 007 1_000 1.0 5. 0x10 0b1 0o7"
WORDS = "null Null NULL yes no y n on off true True TRUE false e inf nan NaN _1 _ 12-30 2001-01-01 -a --x - -1 a- a.b"


def read_back(folder: Path, text: str) -> dict[str, Any]:
    """Settings as they are after the engine has read what it printed."""
    (folder / "again.yaml").write_text(text)
    assert mnemo("config", folder / "again.yaml") == text
    return json.loads(mnemo("config", folder / "again.yaml", "--json"))


def test_names_read_back_as_they_were_given(tmp_path: Path) -> None:
    names = [*NUMBERLIKE.split(), *WORDS.split()]
    path = tmp_path / "a b: #c \"'\\,[]{}&*!|>%@`\u2028\x85\ufeff\u00e4 - .npy"
    np.save(path, np.arange(80, dtype=np.uint8).reshape(10, 8) % 2)
    events = [{"kind": "snapshot", "at": 1, "name": name} for name in names]
    config = {"name": "e1", "data": {"num_sequences": 10, "length": 8, "file": str(path)}, "events": events,
              "model": {"kind": "one_layer_attention", "heads": 1, "head_dim": 8, "mlp_layers": 1},
              "train": {"steps": 10, "batch_size": 2, "lr": 1e-3}, "eval": {"every": 5}}  # fmt: skip
    (tmp_path / "names.yaml").write_text(json.dumps(config, ensure_ascii=False))
    read = read_back(tmp_path, mnemo("config", tmp_path / "names.yaml"))
    assert (read["name"], read["group"], read["run"], read["data"]["file"]) == ("e1", "e1", "e1", str(path))
    assert [event["name"] for event in read["events"]] == names


@pytest.mark.parametrize("run", ["=a", "+1", "1,5", "e+5", "lr=1e-3,seed=0"])
def test_run_names_read_back_as_they_were_given(place: Place, tmp_path: Path, run: str) -> None:
    assert read_back(tmp_path, mnemo("config", place.config, f'run="{run}"'))["run"] == run


def test_a_word_that_is_no_command_is_named() -> None:
    done = call([str(BINARY), "trian", "tiny.yaml"])
    assert done.returncode == USAGE
    assert done.stderr.splitlines()[0].startswith("no command 'trian'; there are train, sweep, resume, status, ")


@pytest.mark.parametrize("number", ["1e-30", "1234567.125", "4e15", "0.1", "2.5e30"])
def test_numbers_read_back_as_numbers(place: Place, tmp_path: Path, number: str) -> None:
    read = read_back(tmp_path, mnemo("config", place.config, f"train.eps={number}"))
    assert read["train"]["eps"] == float(number)
