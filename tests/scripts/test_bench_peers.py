"""The benchmark's race and its peers: who is refused, what a ratio is, what is kept; every peer trains alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bench_dam_peers
import bench_gpt_peers
import bench_layer_peers
import bench_machine
import bench_peers
import bench_race
import bench_steps
import bench_sweep_peers
import numpy as np
import pytest
from synthetic_run import safetensors_bytes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, str(ROOT / "scripts/bench_peers.py")]
LOSSES = [0.69, 0.6, 0.5]
CONTESTANT = """
import json, sys, time
losses, rate = json.loads(sys.argv[1]), float(sys.argv[2])
print(json.dumps({"losses": losses}), flush=True)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if not rate:
        raise SystemExit("worn out")
    print(json.dumps({"steps_per_s": rate}), flush=True)
print(json.dumps({"peak_rss_mb": 7}), flush=True)
"""


def contestant(losses, rate):
    return [sys.executable, "-c", CONTESTANT, json.dumps(losses), str(rate)]


def race(rounds=3, scale=1, patience=None, at_once=False, **commands):
    processors = sorted(os.sched_getaffinity(0))
    started = bench_race.Race(commands, lambda form: LOSSES, processors, 1e-4, at_once, patience)
    return {row["form"]: row for row in started.run(rounds, scale)}


@pytest.mark.parametrize("at_once", [False, True])
def test_a_ratio_is_how_many_times_slower_a_peer_is(at_once):
    rows = race(mnemo=contestant(LOSSES, 100), peer=contestant(LOSSES, 20), scale=8, at_once=at_once)
    assert rows["peer"]["slower_than_first"] == [5, 5, 5]
    assert rows["peer"]["steps_per_s"] == 8 * 20 and rows["peer"]["peak_rss_mb"] == 7


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([0.69, 0.6, 0.5003], "loss 2 differs by 6.0e-04"),
        ([0.69, float("nan"), 0.5], "loss 1 differs by nan"),
        ([0.69, 0.6], "only 2 losses"),
        ([[0.69, 0.69], [0.6, 0.6], [0.5, 0.5]], "losses (3, 2), not (3,)"),
    ],
)
def test_other_losses_get_no_ratio(losses, reason, capsys):
    rows = race(mnemo=contestant(LOSSES, 100), peer=contestant(losses, 1e9))
    assert rows["peer"] == {"form": "peer", "refused": reason}
    bench_peers.print_table([{**bench_peers.Job("one_layer", "A", 1, "cpu")._asdict(), **row} for row in rows.values()])
    printed = capsys.readouterr().out
    assert f"refused: {reason}" in printed and "best peer" not in printed


def test_losses_within_the_tolerance_agree():
    assert bench_race.disagreement([0.69003, 0.6, 0.5, 0.1], LOSSES, 1e-4) == ""


def test_every_replica_is_compared():
    losses, reference = [[0.5, 0.5], [0.4, 0.41]], [[0.5, 0.5], [0.4, 0.4]]
    assert bench_race.disagreement(losses, reference, 1e-4) == "loss 1 differs by 2.5e-02"


def test_a_peer_that_ends_is_named():
    rows = race(mnemo=contestant(LOSSES, 100), peer=[sys.executable, "-c", "raise SystemExit('no such card')"])
    assert rows["peer"]["refused"] == "ended with status 1: no such card"


def test_a_peer_that_ends_in_a_round_is_named():
    rows = race(mnemo=contestant(LOSSES, 100), peer=contestant(LOSSES, 0))
    assert rows["peer"]["refused"] == "ended with status 1: worn out" and rows["mnemo"]["steps_per_s"] == 100


def test_a_peer_that_is_never_ready_is_named():
    code = "import time; time.sleep(60)"
    rows = race(mnemo=contestant(LOSSES, 100), peer=[sys.executable, "-c", code], patience=2.0)
    assert rows["peer"]["refused"] == "not ready after 2 s"


def test_without_mnemo_there_is_nothing_to_compare():
    rows = race(mnemo=[sys.executable, "-c", "raise SystemExit(71)"], peer=contestant(LOSSES, 1))
    assert rows["mnemo"]["refused"] == "ended with status 71" and rows["peer"]["refused"] == "mnemo was refused"


def test_results_of_other_configurations_stay(tmp_path):
    file, about = tmp_path / "results.json", {"processor": "P", "clocks": {"clocks.sm": "1980 MHz"}}
    row = {"name": "one_layer", "config": "A", "threads": 1, "device": "cpu", "form": "mnemo", "steps_per_s": 1.0}
    bench_machine.write_results(file, [row, {**row, "config": "B"}, {**row, "replicas": 8}], about)
    bench_machine.write_results(file, [{**row, "replicas": 1, "precision": "fp32", "steps_per_s": 2.0}], about)
    results = json.loads(file.read_text())
    found = {(r["config"], r.get("replicas", 1)): r["steps_per_s"] for r in results["rows"]}
    assert found == {("A", 1): 2.0, ("B", 1): 1.0, ("A", 8): 1.0}
    assert {key: results[key] for key in about} == about


def test_one_a_core_shares_the_runs_out():
    run = bench_sweep_peers.one_a_core(lambda rate: lambda steps: [rate, os.getpid()][:steps], [0.1, 0.2, 0.3])
    assert run(1) == [[0.1, 0.2, 0.3]]
    processes = {*run(2)[1]}
    assert len(processes) == min(3, len(os.sched_getaffinity(0))) and os.getpid() not in processes


@pytest.mark.parametrize("way", ["one a core", "pack"])
def test_jax_gives_the_losses_of_as_many_steps_as_it_is_asked_for(way):
    pytest.importorskip("jax")
    data = layer_data(1, own_ids=False)
    run = bench_sweep_peers.PEERS[f"jax, {way}"](data, "cpu")
    steps = bench_steps.SCAN["cpu"] + 3
    assert np.shape(run(steps)) == (steps, len(bench_sweep_peers.RATES))


# The peers ------------------------------------------------------------------------------------------------------------


def layer_data(replicas=1, own_ids=False, trains=True):
    heads, width, length = 2, 4, 6
    random = np.random.default_rng(0)
    shapes = {"wte": (2, width), "wpe": (length, width), "c_attn": (3 * width, width), "ln_f": (width,)}
    shapes.update({f"linear_modules.{layer}": (width, width) for layer in range(2)}, lm_head=(2, width))
    weights = {f"{name}.weight": random.standard_normal((replicas, *shape)) for name, shape in shapes.items()}
    biased = [name for name in shapes if name not in ("wte", "wpe")]
    weights.update({f"{name}.bias": random.standard_normal((replicas, shapes[name][0])) for name in biased})
    return {
        "weights": {name: array.astype(np.float32) for name, array in weights.items()},
        "sequences": random.integers(0, 2, (10, length)),
        "batches": random.integers(0, 10, (7, *([replicas] if own_ids else []), 4)),  # repeated after 7 steps
        "trains": trains, "heads": heads, "precision": "fp32",
    }  # fmt: skip


def gpt_data():
    width, length = 4, 6
    random = np.random.default_rng(0)
    shapes = {"transformer.wte": (2, width), "transformer.wpe": (length, width)}
    for layer in range(2):
        block = f"transformer.h.{layer}"
        shapes.update(
            {f"{block}.ln_1": (width,), f"{block}.ln_2": (width,), f"{block}.attn.c_attn": (3 * width, width)}
        )
        shapes.update({f"{block}.attn.c_proj": (width, width), f"{block}.mlp.c_fc": (4 * width, width)})
        shapes[f"{block}.mlp.c_proj"] = (width, 4 * width)
    shapes.update({"transformer.ln_f": (width,), "lm_head": (2, width)})
    weights = {f"{name}.weight": random.standard_normal((1, *shape)) for name, shape in shapes.items()}
    biased = [name for name in shapes if name[-3:] not in ("wte", "wpe")]
    weights.update({f"{name}.bias": random.standard_normal((1, shapes[name][0])) for name in biased})
    return {**layer_data(), "weights": {name: array.astype(np.float32) for name, array in weights.items()}}


def dam_data():
    batch, length, heads, slots = 6, 5, 3, 64
    random = np.random.default_rng(0)
    return {
        "weights": {
            name: random.normal(0, 0.1, (1, *shape)).astype(np.float32)
            for name, shape in (("A_logits", (length, heads, length)), ("B_logits", (heads, length)))
        },
        "sequences": np.arange(32)[:, None] >> np.arange(length) & 1,
        "batches": random.integers(0, 32, (7, batch)),
        "memory": np.concatenate([np.arange(32), random.integers(0, 32, slots - 32)]),
        "precision": "fp32",
    }


def write_weights(file, weights, replica):
    file.write_bytes(safetensors_bytes({name: array[replica] for name, array in weights.items()}))


def import_for(name):
    pytest.importorskip("jax" if "jax" in name else "torch")
    return name


def each(names):
    """As parameters: those that are compiled take some seconds."""
    return [pytest.param(name, marks=[pytest.mark.slow] if "compile" in name else []) for name in names]


@pytest.mark.parametrize("name", each(n for n in bench_layer_peers.PEERS if n != "torch eager"))
@pytest.mark.parametrize("trains", [True, False])
def test_peers_of_a_transformer_agree(name, trains):
    pytest.importorskip("torch")
    data, times = layer_data(trains=trains), 16 if trains else 1
    if not trains:
        data["batches"] = np.arange(10)[None]
    reference = bench_layer_peers.PEERS["torch eager"](data, "cpu")(times)
    run = bench_layer_peers.PEERS[import_for(name)](data, "cpu")
    last = len(data["batches"]) if name.endswith("graph") else times  # a captured form keeps a loss for each batch
    np.testing.assert_allclose(run(times)[-last:], reference[-last:], rtol=1e-4)


@pytest.mark.parametrize("name", each(n for n in bench_gpt_peers.PEERS if n != "torch eager"))
def test_peers_of_a_deep_transformer_agree(name):
    pytest.importorskip("torch")
    reference, run = (bench_gpt_peers.PEERS[form](gpt_data(), "cpu") for form in ("torch eager", import_for(name)))
    np.testing.assert_allclose(run(16)[-7:], reference(16)[-7:], rtol=1e-4)


def test_a_captured_step_starts_from_the_beginning():
    pytest.importorskip("torch")
    data = layer_data()
    eager, graph = (bench_layer_peers.PEERS[name](data, "cpu") for name in ("torch eager", "torch graph"))
    for steps in (3, 2, 1):
        np.testing.assert_allclose(graph(steps), eager(steps), rtol=1e-5)


@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize("name", each(bench_layer_peers.PACK_PEERS))
def test_a_pack_trains_as_single_models(name, own_ids):
    pytest.importorskip("torch")
    data = layer_data(3, own_ids)
    singles = []
    for r in range(3):
        weights = {key: array[r : r + 1] for key, array in data["weights"].items()}
        batches = np.ascontiguousarray(data["batches"][:, r]) if own_ids else data["batches"]
        singles.append(bench_layer_peers.torch_peer({**data, "weights": weights, "batches": batches}, "cpu")(16))
    pack = bench_layer_peers.PACK_PEERS[import_for(name)](data, "cpu")(16)
    np.testing.assert_allclose(pack[-7:], np.transpose(singles)[-7:], rtol=1e-4)
    assert abs(singles[0][-1] / singles[1][-1] - 1) > 1e-2


@pytest.mark.parametrize("name", each(bench_dam_peers.PEERS))
def test_peers_of_a_memory_agree(name, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(bench_dam_peers, "ETA", 1.0)  # no probability is near 0 or 1
    data = dam_data()
    before = data["memory"].copy()
    reference = bench_dam_peers.PEERS["torch eager"](data, "cpu")(16)  # the ring of 64 slots takes 96 rows
    losses = bench_dam_peers.PEERS[import_for(name)](data, "cpu")(16)
    np.testing.assert_allclose(losses[-7:], reference[-7:], rtol=1e-4)
    assert (data["memory"] == before).all(), "others start from it too"


def test_attention_by_products_is_attention():
    torch = pytest.importorskip("torch")
    data = layer_data()
    weights = {name: torch.tensor(array[0]) for name, array in data["weights"].items()}
    ids, sequences = torch.from_numpy(data["batches"][0]), torch.from_numpy(data["sequences"])
    fused, products = (bench_layer_peers.torch_loss(2, batched)(weights, ids, sequences) for batched in (False, True))
    np.testing.assert_allclose(products, fused, rtol=1e-5)


def test_columns_of_zeros_change_nothing(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(bench_dam_peers, "ETA", 1.0)
    data = dam_data()
    for form in ("sdpa", "folded"):
        losses = []
        for aligned in (False, True):
            loss_of = bench_dam_peers._torch_loss(form, counts=True, aligned=aligned)
            state = bench_dam_peers._torch_state(data, "cpu", counts=True)
            run = bench_steps.torch_train(
                loss_of, data["weights"], data["batches"], state, "cpu", 1e-2, bench_dam_peers._torch_push
            )
            losses.append(run(4))
        np.testing.assert_allclose(*losses, rtol=1e-5)


def test_what_is_out_of_memory():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as too_large:
        torch.empty(1 << 58)
    assert bench_steps.is_out_of_memory(too_large.value)
    assert bench_steps.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 184 GiB"))
    assert bench_steps.is_out_of_memory(MemoryError())
    assert not bench_steps.is_out_of_memory(RuntimeError("shapes differ"))


def test_a_peer_that_memory_does_not_suffice_for_says_so(tmp_path):
    """A memory of 2^44 scores: a row says so, as one on a GPU does."""
    pytest.importorskip("torch")
    data = dam_data()
    write_weights(tmp_path / "weights.safetensors", data["weights"], 0)
    for name, array in (
        ("sequences", data["sequences"]), ("batches", np.zeros((4, 1 << 21), int)),
        ("losses", np.ones(20)), ("memory", np.zeros(1 << 21, int)),
    ):  # fmt: skip
        np.save(tmp_path / f"{name}.npy", array)
    command = [*SCRIPT, "dam", "--config", "S", "--worker", "torch eager", "--data", str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["refused"].startswith("out of memory: ")


def test_a_wrong_rate_is_seen():
    runs = len(bench_sweep_peers.RATES)
    losses = np.full((24, runs), 0.5)
    reference = bench_sweep_peers.compared(losses)
    late, early = losses.copy(), losses.copy()
    late[19, bench_sweep_peers.RATES.index(1e-3)] = early[3, runs - 1] = 0.6
    for other in (late, early):
        assert "differs by 2.0e-01" in bench_race.disagreement(bench_sweep_peers.compared(other), reference, 1e-4)
    rounding = losses.copy()
    rounding[4:, 0] = 0.6
    assert bench_race.disagreement(bench_sweep_peers.compared(rounding), reference, 1e-4) == ""


@pytest.mark.parametrize("name", ["torch eager, pack", "jax, pack"])
def test_a_pack_of_rates_trains_as_single_runs(name):
    pytest.importorskip("torch")
    data = layer_data()
    pack = np.asarray(bench_sweep_peers.PEERS[import_for(name)](data, "cpu")(16))
    for index in (0, bench_sweep_peers.BENCH_RUN, len(bench_sweep_peers.RATES) - 1):
        single = bench_layer_peers.torch_peer(data, "cpu", rate=bench_sweep_peers.RATES[index])(16)
        np.testing.assert_allclose(pack[:, index], single, rtol=1e-4)
    assert abs(pack[-1, 0] / pack[-1, -1] - 1) > 1e-2


def test_a_sweep_that_writes_other_bytes_than_train_is_an_error(tmp_path):
    for cache in ("sweep", "train"):
        for n, rate in enumerate(reversed(bench_sweep_peers.RATES)):
            run = tmp_path / cache / "sweep" / f"train.lr={rate}"
            run.mkdir(parents=True)
            line = {"step": 1, "phase": 0, "draws": 4, "train_loss": float(n), "train_accuracy": 0.5, "lr": rate}
            (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    losses = bench_sweep_peers.first_losses(tmp_path / "sweep", tmp_path / "train", 1)
    assert losses.tolist() == [list(range(15, -1, -1))]
    other = tmp_path / "train/sweep/train.lr=0.001/metrics.jsonl"
    other.write_text(other.read_text().replace('"draws": 4', '"draws":  4'))
    with pytest.raises(ValueError, match=r"train\.lr=0\.001: mnemo sweep and mnemo train write different"):
        bench_sweep_peers.first_losses(tmp_path / "sweep", tmp_path / "train", 1)


@pytest.mark.parametrize("form", bench_sweep_peers.OWN_FORMS)
def test_a_run_that_fails_is_no_measurement(form, tmp_path):
    mnemo = tmp_path / "mnemo"
    mnemo.write_text('#!/bin/sh\necho "$@" >> "$0.log"\necho no such thing >&2\nexit 3\n')
    mnemo.chmod(0o755)
    with pytest.raises(ValueError, match="status 3: no such thing"):
        bench_sweep_peers.job_rate(form, str(mnemo), tmp_path, cores=2, steps=20)
    commands = (tmp_path / "mnemo.log").read_text().splitlines()
    assert len(commands) == (1 if form == "mnemo sweep" else len(bench_sweep_peers.RATES))
    assert all(str(rate) in " ".join(commands) for rate in bench_sweep_peers.RATES)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sweep", "--steps", "19"], "in 20 steps or more"),
        (["sweep", "--device", "cuda"], "a sweep is measured on cpu"),
        (["sweep", "--config", "B"], "unknown: B"),
        (["--peers", "torch graph"], "unknown: torch graph"),
        (["dam", "--replicas", "8"], "replicas are of one_layer"),
        (["--replicas", "0"], "different numbers from 1"),
        (["--precision", "tf32"], "tf32 is of cuda"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(options, message):
    done = subprocess.run([*SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 64 and message in done.stderr


def test_without_a_gpu_the_status_is_78():
    pytest.importorskip("torch")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*SCRIPT, "--device", "cuda"], capture_output=True, text=True, env=environment)
    assert done.returncode == 78 and done.stdout == ""
    assert done.stderr.startswith("error: no GPU: ") and done.stderr.count("\n") == 1


def test_without_pytorch_the_status_is_78(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError(\"No module named 'torch'\")\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*SCRIPT, "--device", "cuda"], capture_output=True, text=True, env=environment)
    assert done.returncode == 78 and "No module named 'torch'" in done.stderr


FAKE_MNEMO = """
import json, shutil, sys
if "--version" in sys.argv:
    raise SystemExit(print("mnemo of a test"))
shutil.copytree(sys.argv[1], sys.argv[sys.argv.index("--dump") + 1])
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps({"steps_per_s": 1000}), flush=True)
print(json.dumps({"peak_rss_mb": 1}))
"""


def fake_mnemo(folder: Path, replicas: int = 1) -> str:
    """Answers as `mnemo bench` does, with a small problem that the eager peer trains."""
    data, dump, program = {**layer_data(replicas, replicas > 1), "heads": 4}, folder / "dump", folder / "mnemo"
    dump.mkdir()
    for r in range(replicas):
        write_weights(dump / f"weights{'' if r == 0 else f'_{r}'}.safetensors", data["weights"], r)
    losses = bench_layer_peers.in_turn(bench_layer_peers.torch_peer, data, "cpu")(7)
    np.save(dump / "losses.npy", losses if replicas > 1 else np.ravel(losses))
    for name in ("sequences", "batches"):
        np.save(dump / f"{name}.npy", data[name])
    (folder / "mnemo.py").write_text(FAKE_MNEMO)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$0.py" {dump} "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(("replicas", "peer"), [(1, "torch eager"), (3, "torch eager, pack")])
def test_a_race_from_end_to_end(tmp_path, replicas, peer):
    pytest.importorskip("torch")
    out = tmp_path / "results.json"
    options = ["--config", "C", "--replicas", str(replicas), "--rounds", "2", "--seconds", "0.01", "--peers", peer]
    command = [*SCRIPT, *options, "--mnemo", fake_mnemo(tmp_path, replicas), "--out", str(out), "--missing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())
    assert results["versions"]["mnemo"] == "mnemo of a test" and "torch" in results["versions"]
    forms = ["mnemo", "mnemo, all units", "mnemo, all cells", peer]
    assert [row["form"] for row in results["rows"]] == forms
    assert all(row["replicas"] == replicas and row["precision"] == "fp32" for row in results["rows"])
    assert results["rows"][0]["steps_per_s"] == 1000 * replicas
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and peer not in again.stdout, "nothing is missing"


def test_jax_that_is_missing_is_named_and_left_out(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "jax.py").write_text("raise ImportError(\"No module named 'jax'\")\n")
    command = [*SCRIPT, "--config", "C", "--rounds", "1", "--peers", "jax", "--mnemo", fake_mnemo(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "JAX is not installed (pip install jax): measured without it" in done.stdout
    assert "mnemo, all cells" in done.stdout and "R=1   jax" not in done.stdout


def test_what_time_does_not_suffice_for_is_named(tmp_path):
    pytest.importorskip("torch")
    command = [*SCRIPT, "--minutes", "0", "--peers", "--mnemo", fake_mnemo(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 75
    assert "no time left for: one_layer A R=1, one_layer B R=1, one_layer C R=1; the same" in done.stdout


@pytest.mark.slow
def test_a_sweep_agrees_with_its_peers(tmp_path):
    out, peers = tmp_path / "results.json", ["torch eager, one a core", "torch eager, pack"]
    command = [*SCRIPT, "sweep", "--config", "C", "--steps", "20"]
    options = ["--rounds", "1", "--seconds", "0.02", "--out", out, "--peers", *peers]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["form"] for row in rows] == [*bench_sweep_peers.OWN_FORMS, *peers]
    assert all(row["steps_per_s"] > 0 and row["steps"] == 20 and row["runs"] == 16 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "config"), [("one_layer", "C"), ("evaluate", "L16")])
def test_pytorch_agrees_with_the_engine(benchmark, config, tmp_path):
    out = tmp_path / "results.json"
    command = [*SCRIPT, benchmark, "--config", config]
    options = ["--peers", "torch eager", "--rounds", "1", "--seconds", "0.02", "--out", out]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["form"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["torch eager"]["slower_than_first"][0] > 1
    assert set(rows) >= {"mnemo", "mnemo, all cells", "torch eager"}
