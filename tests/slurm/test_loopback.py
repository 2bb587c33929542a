"""What mnemo's sweeps ask of SLURM, asked of a real one: slurm_cluster.py says what was measured."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SCRIPT, Cluster

# A batch shell that becomes its worker, as in mnemo's job scripts. The worker notes its signals, requeues itself at
# USR1 where asked to, and ends at TERM.
WORKER = r"""
echo "shell $$"
exec bash -c '
  requeue() { [ -z "$REQUEUE" ] || scontrol requeue ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}; }
  trap "echo USR1; requeue" USR1
  trap "echo TERM; exit 0" TERM
  echo "worker $$"
  echo "restarts ${SLURM_RESTART_COUNT:-0}"
  while :; do sleep 0.05; done
'
"""


@pytest.fixture(scope="module", autouse=True)
def limited(slurm_conf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str, str]]:
    """Two jobs near their time limit, submitted first: the controller looks every 30 s; other tests run meanwhile."""
    cluster = Cluster(slurm_conf, tmp_path_factory.mktemp("limited"))
    try:
        warned = cluster.submit(WORKER, "--partition=short", "--signal=B:USR1@20")
        ended = cluster.submit(WORKER, "--time=5", "--requeue")
        cluster.wait_state(ended, "RUNNING")
        cluster.call("scontrol", "update", f"JobId={ended}", "EndTime=now")
        yield cluster, warned, ended
    finally:
        cluster.end_jobs()


def test_a_job_runs_and_its_exit_code_is_told(cluster: Cluster) -> None:
    good = cluster.submit("echo $SLURM_JOB_ID in $PWD")
    bad = cluster.submit("exit 3")
    cluster.wait_state(good, "COMPLETED")
    assert cluster.log(good) == [f"{good} in {cluster.folder}"]
    assert cluster.wait_state(bad, "FAILED", "NonZeroExitCode")["ExitCode"] == "3:0"


def test_throttled_array_runs_its_tasks_one_by_one(cluster: Cluster) -> None:
    body = "mkdir busy || exit 1\necho task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_JOB_ID\nsleep 0.3\nrmdir busy"
    job = cluster.submit(body, "--array=0-2%1")
    for task in range(3):
        cluster.wait_state(f"{job}_{task}", "COMPLETED")
        assert cluster.log(f"{job}_{task}") == [f"task {task} of {job}"]


def test_signals_reach_what_the_batch_shell_became(cluster: Cluster) -> None:
    job = cluster.submit(WORKER)
    cluster.wait_line(job, "restarts 0")
    shell, worker = cluster.log(job)[:2]
    assert shell.split()[1] == worker.split()[1]
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    cluster.wait_line(job, "USR1")
    assert cluster.show(job)["JobState"] == "RUNNING"
    cluster.call("scancel", job)
    cluster.wait_line(job, "TERM")
    cluster.wait_state(job, "CANCELLED")


def test_a_task_requeues_itself_and_runs_again(cluster: Cluster) -> None:
    job = cluster.submit(WORKER, "--array=0-1", "--requeue", "--open-mode=append", "--export=ALL,REQUEUE=yes")
    task = f"{job}_1"
    for both in (f"{job}_0", task):
        cluster.wait_line(both, "restarts 0")
    cluster.call("scancel", "--signal=USR1", "--batch", task)
    cluster.wait_line(task, "TERM")  # requeueing ends the run as scancel does
    assert cluster.wait_state(task, "PENDING", "BeginTime")["Restarts"] == "1"
    cluster.start_requeued(task)
    cluster.wait_line(task, "restarts 1")
    log = cluster.log(task)
    assert log.index("restarts 0") < log.index("USR1") < log.index("TERM") < log.index("restarts 1")
    assert any("DUE TO JOB REQUEUE" in line for line in log)
    assert cluster.show(task)["JobState"] == "RUNNING"
    assert cluster.log(f"{job}_0")[2:] == ["restarts 0"], "the other task never noticed"


def test_gpus_reach_the_job_and_are_shared_out(cluster: Cluster) -> None:
    hold = 'echo "GPUs ${CUDA_VISIBLE_DEVICES-none}"\nexec sleep 60'
    none = cluster.submit(hold)
    first, second, third = (cluster.submit(hold, "--gpus-per-node=1") for _ in range(3))
    for job in (none, first, second):
        cluster.wait_job(job, lambda job=job: cluster.log(job), "its start")
    assert cluster.log(none) == ["GPUs none"]
    assert {*cluster.log(first), *cluster.log(second)} == {"GPUs 0", "GPUs 1"}
    cluster.wait_state(third, "PENDING", "Resources")
    cluster.call("scancel", first, second, third)
    both = cluster.submit(hold, "--gpus-per-node=2")
    cluster.wait_line(both, "GPUs 0,1")


def test_a_drained_node_ends_its_task_and_takes_no_other(cluster: Cluster) -> None:
    job = cluster.submit(WORKER, "--array=0-1%1")
    cluster.wait_line(f"{job}_0", "restarts 0")
    cluster.set_node("drain")
    try:
        assert cluster.node_state() == "draining"
        assert cluster.show(f"{job}_0")["JobState"] == "RUNNING"
        cluster.call("scancel", f"{job}_0")
        cluster.wait_state(f"{job}_1", "PENDING", "DRAINED")
    finally:
        cluster.set_node("resume")
    cluster.wait_line(f"{job}_1", "restarts 0")


def test_the_time_limit_warns_and_ends_without_requeue(limited: tuple[Cluster, str, str]) -> None:
    cluster, warned, ended = limited
    cluster.wait_line(warned, "USR1", seconds=40)
    assert cluster.show(warned)["JobState"] == "RUNNING"
    assert cluster.wait_state(ended, "TIMEOUT", "TimeLimit", seconds=40)["Restarts"] == "0"
    assert "TERM" in cluster.log(ended)


def test_a_lost_node_requeues_its_job(cluster: Cluster) -> None:  # after the one above, whose jobs would be lost too
    job = cluster.submit(WORKER, "--requeue", "--open-mode=append")
    cluster.wait_line(job, "restarts 0")
    cluster.set_node("down")
    cluster.start_requeued(job)
    cluster.wait_line(job, "restarts 1")


def test_script_survives_a_crash_and_leaves_nothing(slurm_conf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"

    def script(verb: str, code: int = 0) -> "tuple[str, str]":
        done = subprocess.run([SCRIPT, verb, folder], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    def start_worker() -> list[int]:
        """The processes of the controller, the node, munge, and a job."""
        own = Cluster(folder / "slurm.conf", tmp_path)
        job = own.submit(WORKER)
        own.wait_line(job, "restarts 0")
        daemons = [int((folder / f"{name}.pid").read_text()) for name in ("munged", "slurmctld", "slurmd")]
        return [*daemons, int(own.log(job)[0].split()[1])]

    def runs(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/cmdline").read_bytes() != b""  # empty: ended, and its parent has not noticed
        except FileNotFoundError:
            return False

    assert "no cluster in" in script("env", 69)[1]
    export = f"export SLURM_CONF={folder}/slurm.conf\n"
    assert script("start") == (export, "")
    crashed = start_worker()
    assert all(map(runs, crashed))
    assert script("env") == (export, "")
    assert script("start") == (export, f"slurm_loopback: runs already in {folder}\n")
    os.kill(crashed[1], signal.SIGKILL)
    os.kill(crashed[2], signal.SIGKILL)
    assert script("start") == (export, ""), "a fresh one"
    assert not any(map(runs, crashed))
    stopped = start_worker()
    assert script("stop") == ("", "")
    assert not any(map(runs, stopped))
    assert not folder.exists()
    assert script("stop") == ("", ""), "nothing to stop"


def test_script_touches_no_other_folder(slurm_conf: Path, tmp_path: Path) -> None:
    kept = tmp_path / "slurm.conf"
    kept.write_text("ClusterName=another\n")
    for verb in ("start", "stop"):
        done = subprocess.run([SCRIPT, verb, tmp_path], capture_output=True, text=True)
        assert done.returncode == 73 and "holds other files" in done.stderr
    assert kept.exists()
    spaced = subprocess.run([SCRIPT, "start", tmp_path / "a b"], capture_output=True, text=True)
    assert spaced.returncode == 78 and "cannot hold this path" in spaced.stderr
