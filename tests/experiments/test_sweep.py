"""`mnemo sweep` as users drive it: every run is the run alone, faults end one run, the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import (
    BINARY,
    CANNOT_CREATE,
    CONFIG,
    DATA,
    DONE,
    IO,
    LOCKED,
    STOPPED,
    USAGE,
    Mount,
    assert_whole,
    call,
    make_place,
    results,
    start,
    wait_for,
)

STEPS = 60
ENDLESS = 100_000 * STEPS  # of runs that a test stops, whatever the speed of the machine
RATES = ["0.001", "0.01"]
MODELS = {
    "one_layer_attention": [],
    "gpt": ["model={kind: gpt, layers: 2, heads: 1, head_dim: 4}", "events=[]"],
    "dam": ["model={kind: dam, heads: 2, capacity: 64}", "events=[]"],
    "prefix_readout": ["model={kind: prefix_readout}", "events=[]"],
}


@dataclass
class Sweep:
    """A configuration, and the folder that its sweep is to have."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "cache" / "tiny"

    def mnemo(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return call([str(BINARY), *map(str, arguments)], **options)

    def command(self, *settings: str) -> list[str]:
        cache = str(self.root / "cache")
        return [str(BINARY), "sweep", str(self.root / "tiny.yaml"), "--cache", cache, "--progress", "plain", *settings]

    def sweep(self, *settings: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return call(self.command(*settings), **options)

    def status(self) -> dict[str, dict[str, Any]]:
        done = self.mnemo("status", self.folder, "--format", "json")
        assert done.returncode == DONE, done.stderr
        return {run["run"]: run for run in json.loads(done.stdout)}

    def states(self) -> list[str]:
        return [run["state"] for run in self.status().values()]

    def run(self, name: str) -> Path:
        return self.folder / name

    def wait_for_done(self, count: int, process: subprocess.Popen[str]) -> None:
        wait_for(lambda: process.poll() is not None or len(list(self.folder.glob("*/final.safetensors"))) >= count)

    def wait_for_metrics(self, count: int, process: subprocess.Popen[str]) -> None:
        """Until so many runs have trained."""
        wait_for(lambda: len(list(self.folder.glob("*/metrics.jsonl"))) >= count, process)


@pytest.fixture
def place(tmp_path: Path) -> Sweep:
    make_place(tmp_path, STEPS)
    return Sweep(tmp_path)


def alone(run: Path, cache: Path) -> dict[str, bytes]:
    """What `mnemo train` makes of the run's config.yaml in another cache."""
    done = call([str(BINARY), "train", str(run / "config.yaml"), "--cache", str(cache), "--progress", "none"])
    assert done.returncode == DONE, done.stderr
    return results(cache / "tiny" / run.name)


@pytest.mark.parametrize("model", MODELS)
def test_a_member_is_the_run_alone(place: Sweep, model: str) -> None:
    done = place.sweep(f"train.lr={','.join(RATES)}", "seed=0,1", "--jobs", "2", *MODELS[model])
    assert done.returncode == DONE, done.stderr
    assert place.states() == ["done"] * 4
    for name in place.status():
        assert results(place.run(name)) == alone(place.run(name), place.root / "alone"), name


def test_a_pack_of_four_ends_as_four_runs(place: Sweep) -> None:
    done = place.sweep("train.lr=0.001,0.003,0.01,1e9", "--max-pack", "4")
    assert done.returncode == DONE, done.stderr
    assert place.states() == ["done", "done", "done", "diverged"]
    for name in list(place.status())[:3]:
        assert results(place.run(name)) == alone(place.run(name), place.root / "alone"), name


def test_dry_run_writes_nothing(place: Sweep) -> None:
    done = place.sweep("train.lr=0.001,0.01", "seed=0,1,2", "--dry-run")
    assert done.returncode == DONE, done.stderr
    assert "points   6 in 6 pack(s)" in done.stdout and "seed=2,train.lr=0.01" in done.stdout
    assert not (place.root / "cache").exists()


def test_points_are_added_to_what_is_done(place: Sweep) -> None:
    assert place.sweep("train.lr=0.001,0.01").returncode == DONE
    before = {name: (place.run(name) / "meta.json").stat().st_mtime_ns for name in place.status()}
    done = place.sweep("train.lr=0.001,0.01,0.1", "seed=0,1")
    assert done.returncode == DONE, done.stderr
    assert list(place.status()) == [
        "train.lr=0.001", "train.lr=0.01", "seed=1,train.lr=0.001", "seed=1,train.lr=0.01",
        "seed=0,train.lr=0.1", "seed=1,train.lr=0.1",
    ]  # fmt: skip
    assert place.states() == ["done"] * 6
    assert {name: (place.run(name) / "meta.json").stat().st_mtime_ns for name in before} == before
    assert [run["seed"] for run in place.status().values()] == [0, 0, 1, 1, 0, 1]


def test_a_changed_setting_that_is_no_axis_is_refused(place: Sweep) -> None:
    assert place.sweep("train.lr=0.001,0.01").returncode == DONE
    done = place.sweep("train.lr=0.001,0.01", "train.batch_size=16")
    assert done.returncode == CONFIG
    assert "train.batch_size: 8 -> 16" in done.stderr and "train.lr=0.001" in done.stderr
    more = place.sweep("train.lr=0.001,0.01", f"train.steps={2 * STEPS}", "events=[]")
    assert more.returncode == CONFIG and "events" in more.stderr


@pytest.mark.parametrize("turns", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_comes_to_the_same_bytes(place: Sweep, turns: int) -> None:
    settings = ["train.lr=logspace(1e-4,1e-2,20)", "seed=range(0,3)", "output.checkpoint_minutes=1e-4"]
    settings += [f"train.steps={10 * STEPS}"]
    for turn in range(turns):
        process = start(place.command(*settings, "--jobs", "3"))
        place.wait_for_done(2 + 5 * turn, process)
        for child in children_of(process)[: turn % 3]:  # workers alone, then the parent
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()
    done = place.mnemo("resume", place.folder, "--jobs", "2", "--progress", "plain")
    assert done.returncode == DONE, done.stderr
    status = place.status()
    assert len(status) == 60 and {run["state"] for run in status.values()} == {"done"}
    for name in list(status)[:: 60 // turns]:
        assert_whole(place.run(name))
        assert results(place.run(name)) == alone(place.run(name), place.root / "alone"), name


def test_a_full_disk_in_mid_sweep_loses_nothing(place: Sweep, mount: Mount) -> None:
    disk = mount("size=400k")
    settings = ["train.lr=logspace(1e-4,1e-2,10)", "--cache", str(disk)]
    full = call([*place.command()[:3], *settings, "--progress", "plain", "--jobs", "2"])
    assert full.returncode in (CANNOT_CREATE, IO), full.stderr
    assert "No space left on device" in full.stderr and "this is a bug" not in full.stderr
    mount("size=100m")
    done = call([*place.command()[:3], *settings, "--progress", "plain", "--jobs", "2"])
    assert done.returncode == DONE, done.stderr
    name = "train.lr=0.0001"
    assert results(disk / "tiny" / name) == alone(disk / "tiny" / name, place.root / "alone")


def peak_address_space(process: subprocess.Popen[str]) -> int:
    """Bytes, looked at until the process ends."""
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = re.search(r"VmPeak:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = 1024 * int(found[1]) if found else peak
        time.sleep(0.01)
    process.communicate()
    return peak


@pytest.mark.slow
def test_a_pack_that_does_not_fit_into_memory_is_split(place: Sweep) -> None:
    large = ["model.heads=8", "model.head_dim=192", "train.steps=2", "events=[]", "eval.novel=0"]
    command = [str(BINARY), "train", str(place.root / "tiny.yaml"), "--cache", str(place.root / "one"), *large]
    limit = peak_address_space(start(command)) + 400 * 2**20  # room for two more, not for three
    done = place.sweep(
        "seed=0,1,2,3", *large, "--max-pack", "4", "--jobs", "1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == DONE, done.stderr
    assert "4 runs do not fit into memory together: as two packs" in done.stderr
    assert place.states() == ["done"] * 4


def test_ctrl_c_stops_all_and_the_same_command_goes_on(place: Sweep) -> None:
    settings = ("train.lr=0.001,0.01,0.1", f"train.steps={ENDLESS}", "events=[]")
    process = start(place.command(*settings, "--jobs", "2"))
    place.wait_for_metrics(2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == STOPPED, err
    assert err.count("stopping: this step is finished and saved") == 1
    assert "mnemo resume" in out
    assert sorted(place.states()) == ["stopped", "stopped", "waiting"]


def test_a_worker_that_is_killed_ends_alone(place: Sweep) -> None:
    process = start(place.command("train.lr=0.001,0.01", f"train.steps={ENDLESS}", "events=[]", "--jobs", "2"))
    place.wait_for_metrics(2, process)
    children = children_of(process)
    os.kill(children[0], signal.SIGKILL)
    line = ""
    while "killed by signal 9" not in line:
        line = process.stderr.readline()
        assert line
    assert "perhaps for want of memory" in line
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == STOPPED, err


def test_workers_die_with_their_parent(place: Sweep) -> None:
    process = start(place.command("train.lr=0.001,0.01", f"train.steps={ENDLESS}", "events=[]", "--jobs", "2"))
    place.wait_for_metrics(2, process)
    children = children_of(process)
    assert len(children) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(child) for child in children))


def children_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_sweeps_at_once_share_the_work(place: Sweep) -> None:
    command = place.command("train.lr=0.001", "seed=0,1", f"train.steps={ENDLESS}", "events=[]", "--jobs", "1")
    first = start(command)
    place.wait_for_metrics(1, first)
    second = start(command)
    line = second.stderr.readline()
    assert "in use by" in line and "seed=0: " in line, line
    place.wait_for_metrics(2, second)
    for process in (first, second):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert first.returncode == STOPPED and second.returncode == STOPPED


def test_a_manifest_edited_by_hand_and_a_directory_deleted_by_hand(place: Sweep) -> None:
    assert place.sweep("train.lr=0.001,0.01,0.1").returncode == DONE
    manifest = place.folder / ".sweep" / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    outside = '{"run": "../../x", "id": "", "values": {}}'
    manifest.write_text("\n".join([lines[0], "{not a run", lines[1], lines[2], outside]) + "\n")
    subprocess.run(["rm", "-r", str(place.run("train.lr=0.01"))], check=True)
    (place.run("train.lr=0.1") / "final.safetensors").unlink()
    done = place.mnemo("resume", place.folder, "--progress", "plain")
    assert done.returncode == DONE, done.stderr
    assert "manifest.jsonl:2: not a run of a sweep, left out" in done.stderr
    assert "manifest.jsonl:5: not a run of a sweep, left out" in done.stderr
    assert "train.lr=0.01: left out" in done.stderr
    assert {name: run["state"] for name, run in place.status().items()} == {
        "train.lr=0.001": "done", "train.lr=0.01": "missing", "train.lr=0.1": "done",
    }  # fmt: skip


def test_best_counts_what_is_not_done_and_warns_at_the_edge(place: Sweep) -> None:
    assert place.sweep("train.lr=0.001,0.01,1e9", "seed=0,1", f"train.steps={4 * STEPS}").returncode == DONE
    done = place.mnemo("best", place.folder)
    assert done.returncode == DONE, done.stderr
    assert "best: train.lr = 0.01: eval.train.loss" in done.stdout and "(2 of 2 runs)" in done.stdout
    points = json.loads(place.mnemo("best", place.folder, "--format", "json").stdout)
    assert [point["train.lr"] for point in points] == [0.01, 0.001, 1e9]
    assert [(point["done"], point["diverged"]) for point in points] == [(2, 0), (2, 0), (0, 2)]
    assert points[2]["eval.train.loss"] is None
    by_seed = place.mnemo("best", place.folder, "--over", "train.lr", "--metric", "train_loss", "--format", "json")
    counted = sorted((point["seed"], point["runs"], point["done"]) for point in json.loads(by_seed.stdout))
    assert counted == [(0, 3, 2), (1, 3, 2)]
    assert place.mnemo("best", place.folder, "--metric", "los").returncode == USAGE
    nowhere = place.mnemo("best", place.folder, "--metric", "eval.phase_7.loss")
    assert nowhere.returncode == USAGE and "it has novel, phase_0, phase_1, train" in nowhere.stderr
    assert place.mnemo("best", place.folder, "--over", "model.heads").returncode == USAGE


def test_the_command_that_widens_the_grid_runs(place: Sweep) -> None:
    assert place.sweep("train.lr=0.0001,0.001", "seed=0,1", f"train.steps={4 * STEPS}").returncode == DONE
    done = place.mnemo("best", place.folder)
    assert "train.lr = 0.001 is the largest that was tried" in done.stderr
    command = done.stdout.split("widen the grid with\n")[1].strip()
    assert "train.lr=0.01,0.1 --cache" in command
    wider = call(["bash", "-c", f"{command} --progress none"])
    assert wider.returncode == DONE, wider.stderr
    assert len(place.status()) == 8


def test_best_leaves_out_sequences_that_are_never_drawn(place: Sweep) -> None:
    np.save(place.root / "weights.npy", np.array([0.0] * 5 + [1.0] * 15))
    own = f"data.weights={place.root / 'weights.npy'}"
    assert place.sweep("train.lr=0.001,0.01", own, "eval.train_stride=1").returncode == DONE
    for point in json.loads(place.mnemo("best", place.folder, "--format", "json").stdout):
        loss = np.load(place.run(f"train.lr={point['train.lr']}") / "eval/train/loss.npy")[-1]
        assert point["eval.train.loss"] == pytest.approx(loss[:15].mean(), rel=1e-5)  # ranks: the largest weight first


def test_status_and_logs(place: Sweep) -> None:
    assert place.sweep("train.lr=0.001,0.01").returncode == DONE
    shown = place.mnemo("status", place.folder)
    assert shown.stdout.splitlines()[0].split() == ["train.lr", "state", "step", "steps", "loss", "run"]
    assert shown.stdout.endswith("\n2 of 2 done\n")
    assert "tiny" in place.mnemo("status", place.root / "cache").stdout
    assert place.mnemo("status", place.root / "nowhere").returncode == DATA
    log = place.mnemo("logs", place.run("train.lr=0.001"))
    assert log.returncode == DONE and "training by" in log.stdout
    assert place.mnemo("logs", place.run("train.lr=0.001"), "-f").stdout == log.stdout
    assert place.mnemo("logs", place.folder).returncode == DATA


def test_resume_of_a_run_is_train(place: Sweep) -> None:
    assert place.sweep("train.lr=0.001,0.01").returncode == DONE
    done = place.mnemo("resume", place.run("train.lr=0.001"))
    assert done.returncode == DONE and "already done" in done.stdout
    assert place.mnemo("resume", place.root).returncode == DATA


def test_a_run_in_use_is_named_and_left(place: Sweep) -> None:
    holder = start([
        str(BINARY), "train", str(place.root / "tiny.yaml"), "group=tiny", "run=train.lr=0.001", "train.lr=0.001",
        f"train.steps={ENDLESS}", "events=[]", "output.pickle=none", "--cache", str(place.root / "cache"),
    ])  # fmt: skip
    wait_for(lambda: (place.run("train.lr=0.001") / "metrics.jsonl").exists(), holder)
    done = place.sweep("train.lr=0.001,0.01", f"train.steps={ENDLESS}", "events=[]", "--max-hours", "0.0005")
    holder.kill()
    holder.communicate()
    assert done.returncode in (LOCKED, STOPPED)
    assert "train.lr=0.001: " in done.stderr and "in use by" in done.stderr


def test_without_sbatch_slurm_says_what_to_do(place: Sweep) -> None:
    environment = {**os.environ, "PATH": "/nowhere"}
    done = place.sweep("train.lr=0.001,0.01", "--launcher", "slurm", env=environment)
    assert done.returncode == CONFIG
    assert "no sbatch on the PATH" in done.stderr
