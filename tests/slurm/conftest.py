"""The cluster of the tests with SLURM: started once, stopped in the end; without SLURM they are skipped, and say so."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SCRIPT, Cluster


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True)
    if started.returncode == 69:  # a program is missing
        pytest.skip(started.stderr.strip().removeprefix("slurm_loopback: "))
    assert started.returncode == 0, started.stderr
    try:
        yield folder / "slurm.conf"
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def cluster(slurm_conf: Path, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster, for jobs that run in tmp_path and end with the test."""
    made = Cluster(slurm_conf, tmp_path)
    try:
        yield made
    finally:
        made.end_jobs()
