"""evaluate, theory, config, doctor: what they print and write, against the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from engine import BINARY, DATA, DONE, Place, call, make_place, mnemo_io


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


def test_evaluate_names_what_is_missing(place: Place, tmp_path: Path) -> None:
    assert "no snapshot of this run" in mnemo("evaluate", place.run, "--weights", "nothing", code=DATA)
    assert "is no run directory" in mnemo("evaluate", tmp_path, code=DATA)


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


def test_names_read_back_as_they_were_given(tmp_path: Path) -> None:
    names = [*NUMBERLIKE.split(), *WORDS.split()]
    path = tmp_path / "a b: #c \"'\\,[]{}&*!|>%@`\u2028\x85\ufeff\u00e4 - .npy"
    np.save(path, np.arange(80, dtype=np.uint8).reshape(10, 8) % 2)
    events = [{"kind": "snapshot", "at": 1, "name": name} for name in names]
    config = {"name": "e1", "data": {"num_sequences": 10, "length": 8, "file": str(path)}, "events": events,
              "model": {"kind": "one_layer_attention", "heads": 1, "head_dim": 8, "mlp_layers": 1},
              "train": {"steps": 10, "batch_size": 2, "lr": 1e-3}, "eval": {"every": 5}}  # fmt: skip
    (tmp_path / "names.yaml").write_text(json.dumps(config, ensure_ascii=False))
    read = mnemo_io.parse_config(mnemo("config", tmp_path / "names.yaml"))
    assert (read["name"], read["group"], read["run"], read["data"]["file"]) == ("e1", "e1", "e1", str(path))
    assert [event["name"] for event in read["events"]] == names


@pytest.mark.parametrize("run", ["=a", "+1", "1,5", "e+5", "lr=1e-3,seed=0"])
def test_run_names_read_back_as_they_were_given(place: Place, run: str) -> None:
    assert mnemo_io.parse_config(mnemo("config", place.config, f'run="{run}"'))["run"] == run


@pytest.mark.parametrize("number", ["1e-30", "1234567.125", "4e15", "0.1", "2.5e30"])
def test_numbers_read_back_as_numbers(place: Place, number: str) -> None:
    read = mnemo_io.parse_config(mnemo("config", place.config, f"train.weight_decay={number}"))
    assert read["train"]["weight_decay"] == float(number)
