from __future__ import annotations

import builtins
import csv
import io
import json
import math
import os
import subprocess
import sys

import mnemo_io
import numpy as np
import pytest
from synthetic_run import REPOSITORY, example_config, never_drawn, safetensors_bytes, write_further, write_settings

from mnemo import curves

SCRIPT = REPOSITORY / "scripts/mnemo_io.py"


def call(*arguments, cwd=None):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


# The whole run --------------------------------------------------------------------------------------------------------


def test_read_run_gives_every_part(run_dir):
    run = mnemo_io.read_run(run_dir)
    assert list(run["sets"]) == ["train", "phase_0", "phase_1", "novel"]
    assert run["config"]["model"]["heads"] == 4
    assert run["status"]["state"] == "done"
    assert run["meta"]["device"] == "cpu"
    assert run["switches"] == [{"phase": 1, "step": 1000}]
    assert run["metrics"]["step"].dtype == np.int64
    assert run["metrics"]["train_loss"].dtype == np.float64
    assert run["theory"][1]["floor"].shape == (200,)
    assert run["theory"][0]["accuracy_ceiling"] < 1
    assert run["sequences"][1].shape == (200, 16)
    assert run["snapshots"]["pre_switch"]["wte.weight"].shape == (2, 4)
    assert run["final"]["lm_head.bias"].dtype == np.float32
    assert mnemo_io.num_sequences(run) == 200
    assert mnemo_io.run_name(run) == "demo"


def test_sets_have_their_shapes_and_two_rows_at_the_switch(run_dir):
    sets = mnemo_io.read_sets(run_dir)
    train = sets["train"]
    assert train["rank"].tolist() == list(range(0, 200, 10))
    assert train["loss"].shape == (22, 20)
    assert train["loss"].dtype == np.float32
    assert train["phase"][train["step"] == 1000].tolist() == [0, 1]
    assert len(sets["phase_1"]["step"]) == 11
    assert (sets["novel"]["presentations"] == 0).all()
    assert not train["loss"].flags.writeable


def test_a_run_that_has_only_a_config_is_empty_but_readable(tmp_path):
    write_settings(tmp_path, example_config(200, 16, 2000, []))
    run = mnemo_io.read_run(tmp_path)
    assert run["metrics"]["step"].shape == (0,)
    assert run["sets"] == {}
    assert run["theory"] == {}
    assert run["sequences"] == {}
    assert run["final"] == {}
    assert "state     unknown" in mnemo_io.summary(run)
    assert all(value.size == 0 for value in mnemo_io.flatten(run).values())


def test_missing_run_names_what_is_there(make_run, tmp_path):
    make_run("one")
    with pytest.raises(FileNotFoundError, match="it holds runs: one"):
        mnemo_io.read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        mnemo_io.read_run(tmp_path / "absent")
    assert [run.name for run in mnemo_io.find_runs(tmp_path)] == ["one"]


def test_theory_json_beside_the_folder(run_dir):
    inside = mnemo_io.read_theory(run_dir)
    os.replace(run_dir / "theory/theory.json", run_dir / "theory.json")
    beside = mnemo_io.read_theory(run_dir)
    assert beside[0]["loss_floor"] == inside[0]["loss_floor"]
    (run_dir / "theory.json").write_text('{"phases": [{"phase": "x"}]}')
    with pytest.raises(ValueError, match=r"theory\.json: phase must be an integer"):
        mnemo_io.read_theory(run_dir)


def test_switches_and_status_must_be_what_they_are(run_dir):
    for text in ("{}", "[1]", '[{"phase": 1}]', '[{"phase": 1, "step": -1}]', "[", '[{"phase": true, "step": 1}]'):
        (run_dir / "switches.json").write_text(text)
        with pytest.raises(ValueError, match=r"switches\.json"):
            mnemo_io.read_run(run_dir)
    (run_dir / "switches.json").write_text("[]")
    (run_dir / "status.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"status\.json"):
        mnemo_io.read_run(run_dir)


def test_limits_belong_to_the_phase_of_the_set(run_dir):
    run = mnemo_io.read_run(run_dir)
    floor, _ = mnemo_io.limits(run, "train", 1)
    assert floor.tolist() == run["theory"][1]["floor"][::10].tolist()
    assert mnemo_io.limits(run, "phase_0", 1)[0].tolist() == run["theory"][0]["floor"].tolist()
    assert mnemo_io.limits(run, "novel", 0) is None
    assert mnemo_io.set_phase("swap_test.phase_2", 7) == 2
    assert mnemo_io.set_phase("swap_test.train", 7) == 7


# metrics.jsonl --------------------------------------------------------------------------------------------------------

LINE = '{"step":100,"phase":0,"draws":6400,"train_loss":0.69,"train_accuracy":0.51,"lr":0.001}'


def metrics_of(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    return mnemo_io.read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("torn", ["", '{"step":200,"pha', "{", "\0\0\0", '{"step":200,"train_loss":0.'])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    metrics = metrics_of(tmp_path, LINE + "\n" + torn)
    assert metrics["step"].tolist() == [100]
    assert metrics["train_loss"].tolist() == [0.69]


def test_a_whole_last_line_without_newline_counts(tmp_path):
    assert metrics_of(tmp_path, LINE + "\n" + LINE.replace("100", "200"))["step"].tolist() == [100, 200]
    assert metrics_of(tmp_path, "")["train_loss"].shape == (0,)


def test_columns_may_be_new_or_missing(tmp_path):
    metrics = metrics_of(tmp_path, LINE + "\n" + LINE[:-1].replace("0.69", "null") + ',"extra":3}\n')
    assert math.isnan(metrics["train_loss"][1])
    assert math.isnan(metrics["extra"][0])
    assert metrics["extra"][1] == 3


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"step":-1}', '{"step":1.5}', '{"step":true}', LINE.replace("0.69", '"x"'),
     LINE.replace('"phase":0', '"phase":0.5'), LINE.replace('"phase":0,', ""), LINE.replace("6400", "1" + 30 * "0"),
     LINE[:-1] + ',"step":3}', "[" * 100_000],
)  # fmt: skip
def test_corrupt_metrics_name_the_file(tmp_path, line):
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        metrics_of(tmp_path, LINE + "\n" + line + "\n")


def test_metrics_that_are_not_utf8(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: not UTF-8"):
        mnemo_io.read_metrics(tmp_path / "metrics.jsonl")


# Sets in flight -------------------------------------------------------------------------------------------------------


def test_rows_beyond_step_npy_are_cut(run_dir):
    folder = run_dir / "eval/train"
    whole = mnemo_io.read_set(folder)
    np.save(folder / "step.npy", np.load(folder / "step.npy")[:7])
    part = mnemo_io.read_set(folder)
    assert part["phase"].shape == (7,)
    assert part["accuracy"].shape == (7, 20)
    assert (part["loss"] == whole["loss"][:7]).all()


def test_files_longer_than_their_header(run_dir):
    whole = mnemo_io.read_set(run_dir / "eval/train")
    for file in (run_dir / "eval/train").glob("*.npy"):
        file.write_bytes(file.read_bytes() + b"\x7f" * 37)
    longer = mnemo_io.read_set(run_dir / "eval/train")
    assert all((whole[name] == longer[name]).all() for name in whole)


def test_a_set_that_is_being_created(run_dir):
    folder = run_dir / "eval/phase_2"
    folder.mkdir()
    assert "phase_2" not in mnemo_io.read_sets(run_dir)
    np.save(folder / "step.npy", np.zeros(0, np.int64))
    assert "phase_2" not in mnemo_io.read_sets(run_dir)
    np.save(folder / "rank.npy", np.arange(3))
    assert mnemo_io.read_sets(run_dir)["phase_2"]["loss"].shape == (0, 3)


def test_large_files_are_mapped(tmp_path):
    np.save(tmp_path / "large.npy", np.arange(1 << 18))
    array = mnemo_io.read_npy(tmp_path / "large.npy", np.int64, 1)
    assert isinstance(array, np.memmap)
    assert array[-1] == (1 << 18) - 1


@pytest.mark.parametrize(
    ("name", "array"),
    [("loss", np.zeros((22, 20))), ("loss", np.zeros((22, 19), np.float32)), ("loss", np.zeros(22, np.float32)),
     ("phase", np.zeros(3, np.int64)), ("step", np.arange(22)[::-1].copy()), ("step", np.arange(22) - 1),
     ("rank", np.arange(20) - 1), ("rank", np.arange(20.0)), ("presentations", np.zeros((20, 22), np.int64).T)],
)  # fmt: skip
def test_sets_of_another_shape_or_type_are_corrupt(run_dir, name, array):
    np.save(run_dir / f"eval/train/{name}.npy", array)
    with pytest.raises(ValueError, match=f"{name}.npy"):
        mnemo_io.read_set(run_dir / "eval/train")


def npy(header, version=1, payload=b""):
    text = header.encode("latin-1")
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + payload


GOOD = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"not npy at all", npy(GOOD), npy(GOOD, payload=bytes(15)), npy(GOOD, version=4),
     npy(GOOD)[:40], npy(GOOD.replace("(2,)", "(10**12,)")), npy(GOOD.replace("(2,)", "(1000000000000,)")),
     npy(GOOD.replace("(2,)", "(-1,)")), npy(GOOD.replace("(2,)", "(0, 9223372036854775807, 9)")),
     npy(GOOD.replace("(2,)", f"({'0,' * 40})")), npy(GOOD.replace("(2,)", "2")),
     npy(GOOD.replace("(2,)", "(True,)")), npy(GOOD.replace("<i8", "|O")), npy(GOOD.replace("<i8", "nonsense")),
     npy(GOOD.replace("False", "True")), npy("[" * 5000), npy("{}"), npy("1"), npy(GOOD, 2)[:8] + b"\xff" * 4],
)  # fmt: skip
def test_corrupt_npy(tmp_path, content):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npy"):
        mnemo_io.read_npy(tmp_path / "bad.npy")


def test_npy_versions_and_empty_arrays(tmp_path):
    for version in (1, 2, 3):
        (tmp_path / "a.npy").write_bytes(npy(GOOD, version, np.array([5, 6]).tobytes()))
        assert mnemo_io.read_npy(tmp_path / "a.npy", np.int64, 1).tolist() == [5, 6]
    np.save(tmp_path / "empty.npy", np.zeros((0, 5), np.float32))
    assert mnemo_io.read_npy(tmp_path / "empty.npy", np.float32, 2).shape == (0, 5)


# safetensors ----------------------------------------------------------------------------------------------------------


def test_safetensors_round_trip(tmp_path):
    tensors = {
        "a": np.arange(6.0).reshape(2, 3), "b": np.array([True, False, True]), "c": np.float32([[1.5]]),
        "d": np.arange(3, dtype=np.int32), "e": np.array(7), "f": np.zeros((0, 4)), "g": np.arange(5, dtype=np.uint8),
    }  # fmt: skip
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(tensors, {"note": "hello"}))
    found = mnemo_io.read_safetensors(path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert (found[name] == tensor).all()
    assert mnemo_io.read_safetensors_metadata(path) == {"note": "hello"}


def test_large_safetensors_are_mapped_and_golden_ones_read(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes({"a": np.arange(1 << 18)}))
    tensor = mnemo_io.read_safetensors(tmp_path / "x.safetensors")["a"]
    assert tensor[-1] == (1 << 18) - 1
    assert isinstance(tensor, np.memmap)
    for golden in sorted((REPOSITORY / "tests/golden").glob("theory_*.safetensors")):
        assert "bits" in mnemo_io.read_safetensors(golden)


def raw(header, payload=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1234567", raw({}, length=1 << 63), raw({}, length=3), raw({}, length=(1 << 64) - 1),
        raw(b"[" * 100_000), raw(b"[]"), raw(b"\xff\xff"), raw(b"{"), raw({}, b"orphan"),
        raw({"a": tensor(), "b": tensor()}, bytes(8)),  # overlap
        raw({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),  # overlap
        raw({"a": tensor(offsets=(8, 16))}, bytes(16)),  # gap
        raw({"a": tensor()}, bytes(12)), raw({"a": tensor()}, bytes(7)),
        raw({"a": tensor(offsets=(8, 0))}, bytes(8)), raw({"a": tensor(offsets=(-8, 0))}, bytes(8)),
        raw({"a": tensor(shape=(3,))}, bytes(8)), raw({"a": tensor(shape=(-2,))}, bytes(8)),
        raw({"a": tensor(shape=(1 << 62, 1 << 62, 1 << 62))}, bytes(8)),
        raw({"a": tensor(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}), raw({"a": tensor(shape=[1] * 99)}, bytes(8)),
        raw({"a": tensor(shape=(2.0,))}, bytes(8)), raw({"a": tensor(shape=(True, 2))}, bytes(8)),
        raw({"a": tensor(dtype="BF16")}, bytes(8)), raw({"a": tensor(dtype=["F32"])}, bytes(8)),
        raw({"a": tensor(more=1)}, bytes(8)), raw({"a": [1]}, bytes(8)), raw({"a": {}}, bytes(8)),
        raw({"a": tensor(offsets=(0, 4, 8))}, bytes(8)), raw({"a": {**tensor(), "shape": 2}}, bytes(8)),
        raw(json.dumps({"a": tensor()})[:-1].encode() + b', "a": 1}', bytes(8)),  # a name twice
        raw({"a": tensor("BOOL", (2,), (0, 2))}, b"\x01\x02"),
    ],
)  # fmt: skip
def test_hostile_safetensors(tmp_path, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        mnemo_io.read_safetensors(tmp_path / "bad.safetensors")


def test_hostile_metadata(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(raw({"__metadata__": {"a": 1}}))
    with pytest.raises(ValueError, match="__metadata__"):
        mnemo_io.read_safetensors_metadata(tmp_path / "bad.safetensors")


# run.json -------------------------------------------------------------------------------------------------------------


def test_run_json_gives_settings_and_facts(run_dir):
    run = mnemo_io.read_run(run_dir)
    assert (run["config"], run["facts"]) == mnemo_io.read_run_json(run_dir)
    assert run["config"] == example_config(200, 16, 2000, [1000])
    assert run["facts"]["model"]["first_position"] == 1
    line = "one_layer_attention: 4 heads, K 200, L 16, Zipf 1, batch 64, lr 0.001, seed 0"
    assert mnemo_io.settings_line(run) == line


def test_a_run_without_run_json_is_told_how_to_get_it(run_dir, monkeypatch):
    (run_dir / "run.json").unlink()
    monkeypatch.setenv("MNEMO_PROGRAM", "/the bin/mnemo")
    with pytest.raises(ValueError, match=f"{run_dir}: has no run.json: an older version wrote it") as told:
        mnemo_io.read_run(run_dir)
    command = f"'/the bin/mnemo' config {run_dir}/config.yaml --json > {run_dir}/run.json"
    assert str(told.value).split("\n  ")[1] == command
    assert "Traceback" not in call(run_dir).stderr and call(run_dir).returncode == 65


def damaged(change):
    content = {**example_config(20, 8, 100, [50]), "facts": {
        "model": {"text": "", "first_position": 1, "task": "bits"}, "chance": {}, "seeds": {}}}  # fmt: skip
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "no valid JSON"), ("[]", "must hold a JSON object"), ("\0", "no valid JSON"),
     ("[" * 100_000, "no valid JSON"), ('{"seed": 1, "seed": 2}', "twice"), ("{}", "an object data"),
     (damaged(lambda run: run.update(train=3)), "an object train"),
     (damaged(lambda run: run["data"].update(num_sequences="20")), "num_sequences must be an integer"),
     (damaged(lambda run: run["data"].update(length=0)), "length must be positive"),
     (damaged(lambda run: run.update(events={})), "a list of events"),
     (damaged(lambda run: run.pop("facts")), "an object facts"),
     (damaged(lambda run: run["facts"].pop("chance")), "chance"),
     (damaged(lambda run: run["facts"].update(model=None)), "model"),
     (damaged(lambda run: run["facts"]["model"].update(first_position="1")), "first_position")],
)  # fmt: skip
def test_damaged_run_json_names_the_file_and_what_is_wrong(tmp_path, text, what):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"run\.json.*{what}"):
        mnemo_io.read_run_json(tmp_path)


def test_ranks_that_are_never_drawn_are_in_no_mean(run_dir):
    whole = mnemo_io.read_run(run_dir)
    assert "probability 0" not in mnemo_io.summary(whole)
    text = mnemo_io.summary(mnemo_io.read_run(never_drawn(run_dir, 150)))
    assert "inf" not in text
    assert "up to 50 ranks of a set have probability 0" in text
    columns, line = whole["sets"]["phase_0"], next(line for line in text.split("\n") if line.startswith("phase_0"))
    theory = np.load(run_dir / "theory/phase_0.npy")[:150].mean(axis=0)
    expected = [columns["loss"][-1, :150].mean(), theory[0], columns["accuracy"][-1, :150].mean(), theory[1]]
    assert line.split()[2] == "150"
    assert [float(word) for word in line.split()[4:]] == pytest.approx(expected, abs=6e-5)
    assert next(line for line in text.split("\n") if line.startswith("novel")).split()[2] == "16"


# Tables ---------------------------------------------------------------------------------------------------------------


def test_to_frame(run_dir):
    pandas = pytest.importorskip("pandas")
    run = mnemo_io.read_run(run_dir)
    assert list(mnemo_io.to_frame(run).columns) == list(mnemo_io.METRIC_COLUMNS)
    frame = mnemo_io.to_frame(run, "train")
    assert isinstance(frame, pandas.DataFrame)
    assert frame.shape == (22 * 20, len(mnemo_io.SET_COLUMNS))
    assert frame[frame["step"] == 0]["rank"].tolist() == run["sets"]["train"]["rank"].tolist()
    with pytest.raises(KeyError, match="there are: metrics, train"):
        mnemo_io.to_frame(run, "nonsense")


def test_what_was_asked_for_beside_the_sets_is_read(run_dir):
    run = mnemo_io.read_run(write_further(run_dir))
    found = run["by_position"]["phase_1"]
    assert found["loss"].shape == found["accuracy"].shape == (11, 3, 15)
    assert (found["bins"].tolist(), found["position"].tolist()) == (
        [[0, 10], [10, 100], [100, 200]],
        list(range(1, 16)),
    )
    assert found["step"].tolist() == run["sets"]["phase_1"]["step"].tolist()
    assert run["sets"]["train"]["completed"].shape == run["sets"]["train"]["loss"].shape
    assert run["theory"][1]["ceiling_by_position"].shape == (3, 15)
    assert {name: array.shape for name, array in run["attention"].items()} == {
        "step": (3,), "vertical_bars": (3, 4, 20, 20), "decorrelation": (3, 20, 4, 4)
    }  # fmt: skip
    assert run["measures"]["A_sharpness"].shape == (3, 16)
    flat = mnemo_io.flatten(run)
    for name in ("by_position/train/bins", "sets/novel/completed", "attention/step", "measures/B_logits_mean",
                 "theory/0/floor_by_position"):  # fmt: skip
        assert name in flat
    assert (
        mnemo_io.summary(run).count("by_position/SET, attention/decorrelation, attention/vertical_bars, measures") == 1
    )
    assert "completed\n" in mnemo_io.summary(run)


def test_a_model_that_predicts_bit_0_counts_positions_from_it(run_dir):
    write_settings(run_dir, example_config(200, 16, 2000, [1000]), first_position=0)
    assert mnemo_io.read_run(write_further(run_dir))["by_position"]["train"]["position"][0] == 0


def test_rows_in_flight_of_further_arrays_are_cut(run_dir):
    write_further(run_dir)
    for folder in ("eval/train", "attention"):
        np.save(run_dir / folder / "step.npy", np.load(run_dir / folder / "step.npy")[:2])
    run = mnemo_io.read_run(run_dir)
    assert len(run["by_position"]["train"]["loss"]) == len(run["sets"]["train"]["completed"]) == 2
    assert len(run["attention"]["decorrelation"]) == 2


@pytest.mark.parametrize(
    ("file", "array"),
    [("eval/train/by_position_loss.npy", np.zeros((22, 4, 15), np.float32)), ("attention/step.npy", np.arange(9)),
     ("eval/train/by_position_accuracy.npy", np.zeros((3, 2, 15), np.float32)), ("measures/x.npy", np.zeros(())),
     ("eval/train/completed.npy", np.zeros((22, 20))), ("theory/by_position_0.npy", np.zeros((3, 15, 3)))],
)  # fmt: skip
def test_further_arrays_of_another_shape_are_corrupt(run_dir, file, array):
    write_further(run_dir)
    np.save(run_dir / file, array)
    with pytest.raises(ValueError, match=r"(by_position|attention|measures|completed|decorrelation).*\.npy"):
        mnemo_io.read_run(run_dir)


@pytest.mark.parametrize(
    ("what", "columns", "element", "where"),
    [
        ("phase_0", "step,moment,phase,rank,presentations,last_seen,loss,accuracy,completed", (3, 7), {"rank": 7}),
        ("by_position/phase_0", "step,moment,phase,first_rank,last_rank,position,loss,accuracy", (3, 1, 4),
         {"first_rank": 10, "last_rank": 99, "position": 5}),
        ("attention/vertical_bars", "step,head,position,later_position,vertical_bars", (1, 3, 2, 4),
         {"head": 3, "position": 10, "later_position": 21}),
        ("attention/decorrelation", "step,position,head,other_head,decorrelation", (2, 2, 0, 3),
         {"position": 10, "head": 0, "other_head": 3}),
        ("measures", "step,position,A_sharpness,B_logits_mean", (1, 9), {"position": 9}),
    ],
)  # fmt: skip
def test_tables_name_every_element(run_dir, what, columns, element, where):
    run = mnemo_io.read_run(write_further(run_dir))
    text = io.StringIO()
    mnemo_io.write_csv(run, what, text)
    lines = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert text.getvalue().split("\n")[0] == columns
    table = mnemo_io.table(run, what)
    name, array = list(table.values.items())[-1]
    assert len(lines) == array.size
    line = lines[int(np.ravel_multi_index(element, array.shape))]
    assert {key: int(line[key]) for key in where} == where
    assert int(line["step"]) == table.rows["step"][element[0]]
    assert float(line[name]) == pytest.approx(float(array[element]))


def test_to_frame_without_pandas(run_dir, monkeypatch):
    real = builtins.__import__

    def without_pandas(name, *arguments, **options):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ImportError, match="pip install pandas"):
        mnemo_io.to_frame(mnemo_io.read_run(run_dir))


# The meaning of curves ------------------------------------------------------------------------------------------------


def test_rank_bins():
    assert curves.rank_bins(1) == [(0, 1)]
    assert curves.rank_bins(10) == [(0, 10)]
    assert curves.rank_bins(11) == [(0, 10), (10, 11)]
    assert curves.rank_bins(1000) == [(0, 10), (10, 100), (100, 1000)]
    assert curves.rank_bins(50, [5, 20, 100, 200]) == [(5, 20), (20, 50)]
    assert curves.rank_bins(3, [5, 20]) == []
    for edges in ([0], [], [5, 5], [3, 2], [-1, 4]):
        with pytest.raises(ValueError, match="bin edges"):
            curves.rank_bins(10, edges)
    assert [curves.bin_label(ranks) for ranks in ((0, 1), (10, 100))] == ["rank 0", "ranks 10-99"]


def test_bin_mean_uses_true_ranks():
    rank = np.array([0, 10, 20, 100])
    values = np.array([[1, 2, 4, 8], [3, 5, 7, 9]], np.float32)
    means = curves.bin_mean(values, rank, [(0, 10), (10, 100), (100, 1000), (1000, 2000)])
    assert means[:, :3].tolist() == [[1, 3, 8], [3, 6, 9]]
    assert np.isnan(means[:, 3]).all()
    assert curves.bin_mean(values, rank[::-1].copy(), [(0, 20)])[0] == pytest.approx([6])
    scattered = np.array([0, 50, 1, 51])
    assert curves.bin_mean(values, scattered, [(0, 10)])[:, 0].tolist() == [2.5, 5]
    assert curves.bin_mean(values[0], rank, [(0, 100)]).shape == (1,)
    assert curves.bin_mean(values[:0], rank, [(0, 100)]).shape == (0, 1)


def test_rows_before_and_after_events():
    step = np.array([0, 500, 1000, 1000, 1500])
    assert curves.rows_before(step, 1000) == slice(0, 3)
    assert curves.rows_after(step, 1000) == slice(3, 5)
    assert curves.rows_before(step, 500) == slice(0, 2)
    assert curves.rows_after(step, 500) == slice(1, 5)
    assert curves.rows_before(step, 700) == slice(0, 2)
    assert curves.rows_after(step, 700) == slice(2, 5)
    assert curves.rows_after(step, 9999) == slice(5, 5)
    assert curves.rows_after(step[:0], 0) == slice(0, 0)
    assert curves.last_rows(step).tolist() == [0, 1, 3, 4]
    assert curves.last_rows(step[:0]).tolist() == []


def test_phase_segments_stride_and_select_ranks(run_dir):
    assert curves.phase_segments(np.array([0, 0, 1, 2, 2])) == [(0, slice(0, 2)), (1, slice(2, 3)), (2, slice(3, 5))]
    assert curves.phase_segments(np.array([], np.int64)) == []
    assert [curves.stride(np.array(rank)) for rank in ([0, 10, 20], [0], [0, 1, 5])] == [10, 1, None]
    sets = mnemo_io.read_sets(run_dir)
    same = curves.select_ranks(sets["phase_0"], sets["train"]["rank"])
    assert same["rank"].tolist() == sets["train"]["rank"].tolist()
    before = curves.rows_before(same["step"], 1000)
    assert (same["loss"][before] == sets["train"]["loss"][: before.stop]).all()


# The command ----------------------------------------------------------------------------------------------------------


def test_command_prints_a_summary(run_dir, tmp_path):
    result = call(run_dir, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("run       demo", "state     done, step 2000 of 2000", "step 1000 (to phase 1)", "phase_1", "novel"):
        assert words in result.stdout
    assert call("--help").stdout.startswith("usage: mnemo show ")
    assert call("--help").stdout.count("mnemo show cache/") >= 4


def test_command_exit_codes(run_dir, tmp_path):
    missing = call(tmp_path / "absent")
    assert missing.returncode == 74
    assert "absent" in missing.stderr
    assert call(run_dir, "--nonsense").returncode == 64
    (run_dir / "final.safetensors").write_bytes(b"\xff" * 100)
    corrupt = call(run_dir)
    assert corrupt.returncode == 65
    assert "final.safetensors" in corrupt.stderr
    assert "Traceback" not in missing.stderr + corrupt.stderr
    assert missing.stderr.count("\n") == corrupt.stderr.count("\n") == 1


def test_main_refuses_wrong_use(run_dir, tmp_path, capsys):
    assert mnemo_io.main([str(run_dir), "--set", "train"]) == 64
    assert mnemo_io.main([str(run_dir), "--csv", str(tmp_path / "x.csv"), "--set", "no"]) == 64
    assert "it has: train, phase_0, phase_1, novel" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
    assert mnemo_io.guarded(lambda: mnemo_io.main([str(run_dir), "--csv", str(tmp_path / "no/x.csv")])) == 74


def test_rows_of_one_step_are_told_apart(run_dir):
    """The engine writes moment.npy; of a run made before it did, the reader finds out."""
    sets = mnemo_io.read_run(run_dir)["sets"]
    for name, columns in sets.items():
        step, moment = columns["step"], columns["moment"]
        assert moment.dtype == np.uint8 and moment.shape == step.shape
        again = np.flatnonzero(step[1:] == step[:-1]) + 1
        begun = [0] if name == "phase_1" else []
        assert np.flatnonzero(moment).tolist() == [*begun, *again.tolist()], name
    assert sets["train"]["moment"].any() and sets["phase_1"]["moment"][0] == 1
    written = sets["train"]["moment"].copy()
    written[0] = 1
    np.save(run_dir / "eval/train/moment.npy", written)
    assert mnemo_io.read_set(run_dir / "eval/train")["moment"].tolist() == written.tolist()
    np.save(run_dir / "eval/train/moment.npy", written[:-1])
    with pytest.raises(ValueError, match="moment.npy: shape"):
        mnemo_io.read_set(run_dir / "eval/train")


def test_csv_of_metrics_and_sets(run_dir, tmp_path):
    run = mnemo_io.read_run(run_dir)
    assert mnemo_io.main([str(run_dir), "--csv", str(tmp_path / "m.csv")]) == 0
    table = np.genfromtxt(tmp_path / "m.csv", delimiter=",", names=True)
    assert (table["train_loss"] == run["metrics"]["train_loss"]).all()
    assert mnemo_io.main([str(run_dir), "--csv", str(tmp_path / "t.csv"), "--set", "train"]) == 0
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "step,moment,phase,rank,presentations,last_seen,loss,accuracy"
    table = np.genfromtxt(tmp_path / "t.csv", delimiter=",", names=True)
    assert (table["loss"].astype(np.float32) == run["sets"]["train"]["loss"].reshape(-1)).all()
    assert (table["rank"][:20] == run["sets"]["train"]["rank"]).all()
    assert [file.name for file in tmp_path.glob("*.tmp")] == []


def test_npz_holds_everything_numeric(run_dir, tmp_path):
    assert mnemo_io.main([str(run_dir), "--npz", str(tmp_path / "all.npz")]) == 0
    with np.load(tmp_path / "all.npz") as archive:
        assert archive["sets/phase_1/loss"].shape == (11, 200)
        assert archive["theory/0/loss_floor"].shape == ()
        assert archive["switches/step"].tolist() == [1000]
        assert archive["sequences/0"].dtype == np.uint8
        assert archive["snapshots/pre_switch/wte.weight"].shape == (2, 4)
        assert "metrics/lr" in archive


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}])
def test_paths_are_printed_as_given(make_run, tmp_path, locale):
    folder = os.fsencode(tmp_path) + b"/\xd0\xb9\xff"
    os.mkdir(folder)
    os.replace(make_run(), folder + b"/run")
    for arguments, code in (([b"--csv", folder + b"/m.csv"], 0), ([b"--csv", folder + b"/absent/m.csv"], 74)):
        command = [sys.executable, SCRIPT, folder + b"/run", *arguments]
        environment = {**os.environ, "PYTHONCOERCECLOCALE": "0", **locale}
        result = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
        assert result.returncode == code
        assert arguments[1] in result.stdout + result.stderr


def test_what_the_terminal_lacks_is_escaped():
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import mnemo_io\n"
    code += "mnemo_io.guarded(lambda: print('\\u0439\\udcd0\\u2028'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60, check=False)
    assert result.stdout == b"\\u0439\xd0\\u2028\n"
