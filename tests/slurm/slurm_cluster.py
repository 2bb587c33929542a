"""
A SLURM cluster of one node on loopback, as tests use it (scripts/slurm_loopback.sh starts it).

What SLURM 22.05 does there, measured, and what the tests build on:

- `start` takes 1.1 s, `stop` 0.1 s. The scheduler wakes once a second: a job starts 0.3 to 1 s after its submission,
  and the tasks of an array with throttle %1 follow each other by a second.
- scancel, `scontrol requeue`, and the time limit send CONT and TERM within milliseconds (so a job that requeues itself
  gets them while its own scontrol returns), then KILL after KillWait, here 5 s.
- A requeued job waits in BeginTime for 121 s from the end of its processes (cred_expire of AuthInfo, and a second);
  `scontrol update JobId=... StartTime=now+1` ends that wait. Not StartTime=now: a job that starts in the second of its
  requeue fails with exit code 1 and nothing in its log, as the node takes its credential for the revoked one.
- In a throttled array the place of a requeued task goes to the next, and its reason to wait is JobArrayTaskLimit.
- The log of a requeued job goes on with --open-mode=append, after SLURM's own line, DUE TO JOB REQUEUE.
- Time limits, and so --signal, are looked at every 30 s from the controller's start on: `--signal=B:USR1@20` comes 20
  to 50 s before the end, with a CONT before or after it. A limit is in minutes, but
  `scontrol update JobId=... EndTime=now+40` moves the end of a running job by seconds.
- `scancel --signal=USR1 --batch` sends that signal alone, at once.
- A node set down requeues its jobs (DUE TO NODE FAILURE), and comes back by itself within a second.
- There is no accounting, so no sacct; scontrol still shows a job for MinJobAge, 300 s, after its end.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/slurm_loopback.sh"
Value = TypeVar("Value")


def wait_for(predicate: Callable[[], Value], what: str, seconds: float = 60) -> Value:
    """
    The first true value of `predicate`.

    Parameters
    ----------
    predicate : callable
        Asked every 20 ms.
    what : str
        What is waited for: what the failure says after `seconds`.
    """
    end = time.monotonic() + seconds
    while not (value := predicate()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return value


@dataclass
class Cluster:
    """
    A running cluster, and the jobs that a test has submitted to it.

    Attributes
    ----------
    conf : Path
        What SLURM_CONF names for every program of SLURM, and for a program that calls them.
    folder : Path
        Where jobs run and leave their logs.
    """

    conf: Path
    folder: Path
    jobs: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def call(self, *command: str, script: "str | None" = None) -> str:
        done = subprocess.run(
            command, input=script, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, body: str, *options: str) -> str:
        """The id of a job that runs `body` in bash; it ends with the test at the latest."""
        job = self.call("sbatch", "--parsable", *options, script=f"#!/bin/bash\n{body}\n").strip()
        self.jobs.append(job)
        return job

    def log(self, job: str) -> list[str]:
        """The lines that a job, or a task such as "7_0", has written by now."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job or a task, by SLURM's names: JobState, Reason, Restarts, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "--oneliner", "show", "job", job)))

    def wait_job(self, job: str, predicate: Callable[[], Value], what: str, seconds: float = 60) -> Value:
        """As wait_for; a failure also shows what SLURM knows of the job, and the job's log."""
        try:
            return wait_for(predicate, what, seconds)
        except AssertionError as failed:
            shown = self.call("scontrol", "show", "job", job)
            raise AssertionError("\n".join([f"{failed}, job {job}:", shown, *self.log(job)])) from None

    def wait_line(self, job: str, line: str, seconds: float = 20) -> None:
        self.wait_job(job, lambda: line in self.log(job), f"the line '{line}'", seconds)

    def wait_state(self, job: str, state: str, reason: str = "", seconds: float = 20) -> dict[str, str]:
        """Waits until a job is, say, PENDING for the reason BeginTime; what `show` says then."""

        def reached() -> "dict[str, str] | None":
            shown = self.show(job)
            return shown if shown["JobState"] == state and reason in shown["Reason"] else None

        return self.wait_job(job, reached, f"{state} {reason}", seconds)

    def start_requeued(self, job: str) -> None:
        """Waits until a job that ran is requeued, and ends the two minutes for which SLURM would hold it back."""

        def requeued() -> bool:
            shown = self.show(job)
            return shown["JobState"] == "PENDING" and shown["Restarts"] != "0"

        self.wait_job(job, requeued, "its requeue")
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+1")

    def set_node(self, state: str) -> None:
        """Sets the node's state: drain and resume, or down, of which it recovers by itself."""
        node = self.call("sinfo", "--noheader", "--partition=test", "--format=%n").strip()
        self.call("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def node_state(self) -> str:
        return self.call("sinfo", "--noheader", "--partition=test", "--format=%T").strip()

    def end_jobs(self) -> None:
        """Cancels what the test has left, and waits for its end."""
        if self.jobs:
            ids = ",".join(self.jobs)
            self.call("scancel", *self.jobs)
            wait_for(lambda: not self.call("squeue", "--noheader", f"--jobs={ids}").strip(), f"jobs {ids} to end")
