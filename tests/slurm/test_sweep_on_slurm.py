"""`mnemo sweep --launcher slurm` on a real cluster: arrays, time limits, requeue, scancel, resume of the rest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

from engine import BINARY, DONE, call, make_place, results  # noqa: E402

STEPS = 60
LONG = 20000 * STEPS  # no test waits for its end


class SlurmSweep:
    """A configuration in the folder of a cluster, and its sweep."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.folder = cluster.folder / "cache" / "tiny"
        make_place(cluster.folder, STEPS)

    def mnemo(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {**self.cluster.environment, "OMP_WAIT_POLICY": "passive"}
        done = call([str(BINARY), *map(str, arguments)], env=environment, cwd=self.cluster.folder)
        for job in re.findall(r"^submitted (.*)$", done.stdout, re.MULTILINE):
            self.cluster.jobs += job.split(", ")
        return done

    def sweep(self, *settings: str) -> list[str]:
        """The jobs that it submits."""
        before = len(self.cluster.jobs)
        done = self.mnemo("sweep", "tiny.yaml", *settings, "--launcher", "slurm")
        assert done.returncode == DONE, done.stdout + done.stderr
        return self.cluster.jobs[before:]

    def states(self) -> dict[str, str]:
        """Of the runs that have begun; `mnemo status` takes a second each time."""
        files = self.folder.glob("*/status.json")
        return {file.parent.name: json.loads(file.read_text())["state"] for file in files}

    def wait_for_states(self, *states: str, seconds: float = 40) -> None:
        wait_for(lambda: sorted(self.states().values()) == sorted(states), f"{states}", seconds)

    def log(self, job: int, task: int) -> str:
        path = self.folder / ".sweep" / f"job_{job}" / f"{task}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture
def sweep(cluster: Cluster) -> SlurmSweep:
    return SlurmSweep(cluster)


def alone(run: Path, cache: Path) -> dict[str, bytes]:
    done = call([str(BINARY), "train", str(run / "config.yaml"), "--cache", str(cache), "--progress", "none"])
    assert done.returncode == DONE, done.stderr
    return results(cache / "tiny" / run.name)


def test_an_array_carries_out_every_point_and_wait_says_what_came_of_them(sweep: SlurmSweep) -> None:
    done = sweep.mnemo(
        "sweep", "tiny.yaml", "train.lr=0.001,0.01,1e9", "slurm.array_parallelism=2", "--launcher", "slurm", "--wait"
    )
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "2 of 3 done, 1 diverged" in done.stdout
    assert "status" in done.stdout and "squeue --jobs=" in done.stdout
    script = (sweep.folder / ".sweep/job_1/job.sh").read_text()
    assert "#SBATCH --array=0-2%2\n" in script and script.splitlines()[-1].startswith("exec ")
    run = sweep.folder / "train.lr=0.01"
    assert results(run) == alone(run, sweep.cluster.folder / "alone")
    assert "loss or gradient is not finite" in sweep.log(1, 2)


def test_before_the_time_limit_a_task_saves_and_is_queued_again(sweep: SlurmSweep) -> None:
    (job,) = sweep.sweep("train.lr=0.001,0.01", f"train.steps={LONG}", "events=[]")
    runs = [sweep.folder / "train.lr=0.001", sweep.folder / "train.lr=0.01"]
    wait_for(lambda: all((run / "metrics.jsonl").exists() for run in runs), "both to train")
    task = f"{job}_0"
    sweep.cluster.call("scancel", "--signal=USR1", "--batch", task)
    sweep.cluster.start_requeued(task)
    wait_for(lambda: "resumed at step" in sweep.log(1, 0), "the requeued task to go on")
    log = sweep.log(1, 0)
    assert log.index("into the queue again") < log.index("DUE TO JOB REQUEUE") < log.index("resumed at step")
    assert sweep.cluster.show(task)["Restarts"] == "1"


def test_no_more_often_than_max_requeues(sweep: SlurmSweep) -> None:
    (job,) = sweep.sweep("train.lr=0.001,0.01", f"train.steps={LONG}", "events=[]", "slurm.max_requeues=0")
    wait_for(lambda: (sweep.folder / "train.lr=0.001" / "metrics.jsonl").exists(), "the first to train")
    sweep.cluster.call("scancel", "--signal=USR1", "--batch", f"{job}_0")
    wait_for(lambda: "not put into the queue again" in sweep.log(1, 0), "the end of the task")
    wait_for(lambda: sweep.cluster.show(f"{job}_0")["JobState"] == "FAILED", "its end in the queue")


def test_scancel_saves_and_resume_submits_what_is_not_done(sweep: SlurmSweep) -> None:
    jobs = sweep.sweep("train.lr=0.001,0.01,1e9", f"train.steps={STEPS}", "events=[]")
    sweep.wait_for_states("done", "done", "diverged")
    jobs = sweep.sweep("train.lr=0.02,0.03", f"train.steps={LONG}", "events=[]", "name=long")
    sweep.folder = sweep.folder.parent / "long"
    wait_for(lambda: len(list(sweep.folder.glob("*/metrics.jsonl"))) == 2, "both to train")
    sweep.cluster.call("scancel", f"{jobs[0]}_1")
    sweep.wait_for_states("running", "stopped")
    sweep.cluster.wait_state(f"{jobs[0]}_1", "CANCELLED")
    sweep.cluster.call("scancel", jobs[0])
    sweep.wait_for_states("stopped", "stopped")
    done = sweep.mnemo("resume", sweep.folder)
    assert done.returncode == DONE and "submitted" in done.stdout, done.stdout + done.stderr
    wait_for(lambda: "resumed at step" in sweep.log(2, 1), "the resumed run")
    assert (sweep.folder / ".sweep/job_2/packs.jsonl").read_text() == '["train.lr=0.02"]\n["train.lr=0.03"]\n'


def test_a_node_that_fails_in_mid_run_is_survived(sweep: SlurmSweep) -> None:
    (job,) = sweep.sweep("train.lr=0.001,0.01", f"train.steps={LONG}", "events=[]", "output.checkpoint_minutes=0.001")
    wait_for(lambda: len(list(sweep.folder.glob("*/checkpoints/step_*"))) >= 2, "checkpoints of both")
    sweep.cluster.set_node("down")
    wait_for(lambda: sweep.cluster.node_state() in ("idle", "mixed"), "the node to come back")
    sweep.cluster.start_requeued(f"{job}_0")

    def goes_on() -> bool:
        if sweep.cluster.node_state().startswith(("down", "drain")):  # it was late to say that a task had ended
            sweep.cluster.set_node("resume")
        return "resumed at step" in sweep.log(1, 0)

    try:
        wait_for(goes_on, "the requeued task to go on", 30)
    except AssertionError:
        raise AssertionError(f"{sweep.cluster.node_state()}: {sweep.cluster.show(f'{job}_0')}") from None


def test_gpus_reach_the_worker_and_setup_runs_before_it(sweep: SlurmSweep) -> None:
    (job,) = sweep.sweep(
        "train.lr=0.001,0.01", "slurm.gpus_per_node=1", 'slurm.setup=["echo gpus $CUDA_VISIBLE_DEVICES"]',
        "slurm.command=nice",
    )  # fmt: skip
    sweep.wait_for_states("done", "done")
    assert {sweep.log(1, task).splitlines()[0] for task in (0, 1)} == {"gpus 0", "gpus 1"}


def test_more_points_than_an_array_may_have_are_several_arrays(sweep: SlurmSweep) -> None:
    jobs = sweep.sweep("seed=range(0,52)", "train.steps=2", "events=[]", "--max-pack", "2", "eval.novel=0")
    assert len(jobs) == 1
    packs = (sweep.folder / ".sweep/job_1/packs.jsonl").read_text().splitlines()
    assert [len(json.loads(pack)) for pack in packs] == [2] * 26
    sweep.wait_for_states(*["done"] * 52)
    more = sweep.sweep("seed=range(100,152)", "train.steps=2", "events=[]", "eval.novel=0")
    assert len(more) == 2  # MaxArraySize is 51 here: indices 0 to 50
    sizes = [len((sweep.folder / f".sweep/job_{n}/packs.jsonl").read_text().splitlines()) for n in (2, 3)]
    assert sizes == [51, 1]
    sweep.cluster.call("scancel", *more)


def test_a_refusal_of_sbatch_is_shown(sweep: SlurmSweep) -> None:
    done = sweep.mnemo("sweep", "tiny.yaml", "seed=0,1", "slurm.partition=nowhere", "--launcher", "slurm")
    assert done.returncode == 78
    assert "invalid partition specified: nowhere" in done.stderr
    assert "Traceback" not in done.stderr
