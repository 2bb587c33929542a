"""Disks of any size, for tests that fill them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Mount


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with these options on a new folder, or remounts it with others."""
    folder = tmp_path / "disk"
    mounted = False

    def mount_with(options: str) -> Path:
        nonlocal mounted
        folder.mkdir(exist_ok=True)
        options = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 and not mounted:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted = True
        return folder

    yield mount_with
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
