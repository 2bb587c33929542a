"""Full disks, unwritable places, corrupt files: the promised exit code, the path in the message, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import (
    BINARY,
    CANNOT_CREATE,
    DATA,
    DONE,
    IO,
    LOCKED,
    Mount,
    Place,
    assert_same_results,
    assert_whole,
    environment,
    make_place,
    mnemo_io,
    point_of,
    results,
    uninterrupted,
)

STEPS = 200
NOBODY = 65534


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return uninterrupted(tmp_path_factory.mktemp("uninterrupted"), STEPS)


# Full disk ------------------------------------------------------------------------------------------------------------


def assert_fails_and_resumes(place: Place, free: Callable[[], object], expected: dict[str, bytes]) -> None:
    """A run that keeps every checkpoint fills the disk; with more room the same command goes on."""
    for _ in range(2):  # the second attempt finds the disk as full
        failed = place.train()
        assert failed.returncode == IO, failed.stderr
        message = failed.stderr.splitlines()[-1]
        assert " error " in message and str(place.run) in message
        assert "No space left on device" in message or "File too large" in message
        assert "already done" not in failed.stdout
    assert_whole(place.run)
    assert not list(place.run.rglob("*.safetensors.tmp"))
    had_checkpoint = len(place.checkpoints) > 0
    free()
    resumed = place.train("output.keep=2")
    assert resumed.returncode == DONE, resumed.stderr
    assert ("resumed at step" in resumed.stderr) == had_checkpoint
    assert "not usable" not in resumed.stderr
    assert_same_results(place.run, expected)


@pytest.mark.parametrize("kilobytes", [40, 120, 400, 1000])
def test_full_disk(mount: Mount, tmp_path: Path, expected: dict[str, bytes], kilobytes: int) -> None:
    """Small disks are full before the first checkpoint, larger ones on the way."""
    cache = mount(f"size={kilobytes}k")
    place = make_place(tmp_path, STEPS, checkpoint_minutes=1e-9, keep=1000, cache=cache)
    assert_fails_and_resumes(place, lambda: mount("size=64m"), expected)


@pytest.mark.parametrize("files", [8, 60])
def test_disk_without_room_for_more_files(mount: Mount, tmp_path: Path, expected: dict[str, bytes], files: int) -> None:
    cache = mount(f"size=64m,nr_inodes={files}")
    place = make_place(tmp_path, STEPS, checkpoint_minutes=1e-9, keep=1000, cache=cache)
    assert_fails_and_resumes(place, lambda: mount("size=64m,nr_inodes=10000"), expected)


def test_disk_that_is_full_when_it_is_stopped(mount: Mount, tmp_path: Path) -> None:
    """The checkpoint of Ctrl-C does not fit: exit 74, the one before intact."""
    steps = 100_000
    cache = mount("size=4m")
    place = make_place(tmp_path, steps, cache=cache)
    process = place.start()
    place.wait_for_step(process)
    process.send_signal(signal.SIGSTOP)
    with open(cache / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == IO, err
    assert str(place.run) in err.splitlines()[-1] and "No space left on device" in err
    assert_whole(place.run)
    (cache / "filler").unlink()
    assert place.train("--max-hours", "1e-9").returncode == 75


def test_file_size_limit(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """As batch systems set it; SIGXFSZ would kill the process."""
    place = make_place(tmp_path, STEPS)
    small = place.train(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
    assert small.returncode == IO, small.stderr
    message = small.stderr.splitlines()[-1]
    assert str(place.run) in message and "File too large" in message
    assert place.status()["state"] == "failed"
    assert place.train().returncode == DONE
    assert_same_results(place.run, expected)


# Unwritable places ----------------------------------------------------------------------------------------------------


def test_cache_that_cannot_be_made(tmp_path: Path, mount: Mount) -> None:
    (tmp_path / "file").write_text("not a folder")
    read_only = mount("ro")
    for cache in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/mnemo"), read_only):
        refused = make_place(tmp_path, STEPS, cache=cache).train(*(["--restart"] if cache.name == "below" else []))
        assert refused.returncode == CANNOT_CREATE, (cache, refused.stderr)
        assert str(cache) in refused.stderr.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_run_on_a_disk_that_became_read_only(mount: Mount, tmp_path: Path) -> None:
    place = make_place(tmp_path, 40, cache=mount("size=4m"))
    assert place.train().returncode == DONE
    mount("ro")
    again = place.train()
    assert again.returncode == DONE, again.stderr
    assert again.stdout.splitlines()[-1] == f"already done: {place.run}"
    refused = place.train("train.steps=60")
    assert refused.returncode == CANNOT_CREATE
    assert str(place.run) in refused.stderr and "Read-only" in refused.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for a user whom permissions stop; pytest's own folders are closed to others."""
    if os.getuid() != 0 or subprocess.run([str(BINARY), "--version"], user=NOBODY, capture_output=True).returncode != 0:
        pytest.skip("needs root, and a binary that others may run")
    folder = Path(f"/tmp/mnemo_permission_{os.getpid()}")
    (folder / "cache").mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def test_cache_without_permission(open_folder: Path) -> None:
    place = make_place(open_folder, STEPS)
    for mode, arguments in ((0o555, ()), (0o000, ("--restart",))):
        os.chmod(place.cache, mode)
        refused = place.train(*arguments, user=NOBODY, cwd="/")
        assert refused.returncode == CANNOT_CREATE, refused.stderr
        assert str(place.cache) in refused.stderr and "Permission denied" in refused.stderr


def test_checkpoints_without_permission(open_folder: Path) -> None:
    """What cannot be listed is not none, and nothing is cut."""
    place = make_place(open_folder, 40)
    os.chown(place.cache, NOBODY, NOBODY)
    assert place.train(user=NOBODY, cwd="/").returncode == DONE
    before = results(place.run)
    for mode, code in ((0o000, IO), (0o300, IO), (0o400, DATA)):
        os.chmod(place.run / "checkpoints", mode)
        refused = place.train("train.steps=60", user=NOBODY, cwd="/")
        assert refused.returncode == code, refused.stderr
        message = refused.stderr.splitlines()[-1]
        assert str(place.run / "checkpoints") in message and "only --restart" in message
        assert_same_results(place.run, before)
        assert place.status()["state"] == "done"
    os.chmod(place.run / "checkpoints", 0o755)
    grown = place.train("train.steps=60", user=NOBODY, cwd="/")
    assert grown.returncode == DONE and "resumed at step 40 of 60" in grown.stderr


WITHOUT_LOCKS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static int answer(int fd, int command, void* argument) {
  if (command != F_OFD_SETLK) return syscall(SYS_fcntl, fd, command, argument);
  errno = ENOSYS;
  return -1;
}
#define ANSWER(name)                                  \
  int name(int fd, int command, ...) {                \
    va_list arguments;                                \
    va_start(arguments, command);                     \
    void* argument = va_arg(arguments, void*);        \
    va_end(arguments);                                \
    return answer(fd, command, argument);             \
  }
#undef fcntl
ANSWER(fcntl)
ANSWER(fcntl64)
int fsync(int fd) {
  struct stat status;
  if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    errno = EPERM;
    return -1;
  }
  return syscall(SYS_fsync, fd);
}
"""


def test_file_system_without_locks(tmp_path: Path) -> None:
    """It trains there; a fresh heartbeat keeps a second process away."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "shim.c").write_text(WITHOUT_LOCKS)
    shim = tmp_path / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c"], check=True)
    place = make_place(tmp_path, 40)
    options = {"env": environment(LD_PRELOAD=str(shim))}
    done = place.train(**options)
    assert done.returncode == DONE, done.stderr
    assert "this file system has no locks" in done.stderr
    status = place.status()
    for age, code in ((5, LOCKED), (3600, DONE)):
        status |= {"state": "running", "heartbeat": int(time.time()) - age}
        (place.run / "status.json").write_text(json.dumps(status))
        second = place.train(**options)
        assert second.returncode == code, second.stderr
        assert ("try again in a minute" in second.stderr) == (code == LOCKED)


# Corrupt files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Path]:
    """A folder where fsync takes no time, if there is such a place."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, in_memory: Path) -> Place:
    """What a run leaves that is killed at its end, with two checkpoints after the switch: copy it, then break it."""
    place = make_place(tmp_path_factory.mktemp("stopped"), STEPS, checkpoint_minutes=1e-9, keep=1000, cache=in_memory)
    assert place.train().returncode == DONE
    (place.run / "final.safetensors").unlink()
    (place.run / "status.json").write_text((place.run / "status.json").read_text().replace("done", "running"))
    for checkpoint in place.checkpoints:
        if point_of(checkpoint) not in ((150, 0), (165, 0)):
            checkpoint.unlink()
    assert len(place.checkpoints) == 2
    return place


@pytest.fixture
def broken(stopped: Place, tmp_path: Path) -> Place:
    place = make_place(tmp_path, STEPS)
    shutil.copytree(stopped.run, place.run)
    return place


def assert_falls_back(place: Place, expected: dict[str, bytes]) -> None:
    resumed = place.train()
    assert resumed.returncode == DONE, resumed.stderr
    assert "checkpoint not usable" in resumed.stderr
    assert "going on from the checkpoint before it" in resumed.stderr
    assert_same_results(place.run, expected)


def test_whole_checkpoints(broken: Place, expected: dict[str, bytes]) -> None:
    resumed = broken.train()
    assert resumed.returncode == DONE and "resumed at step 165 " in resumed.stderr
    assert "warning" not in resumed.stderr
    assert_same_results(broken.run, expected)


@pytest.mark.parametrize("length", [0, 500, -1])
def test_truncated_checkpoint(broken: Place, expected: dict[str, bytes], length: int) -> None:
    newest = broken.checkpoints[0]
    os.truncate(newest, length if length >= 0 else newest.stat().st_size + length)
    assert_falls_back(broken, expected)


@pytest.mark.parametrize("place_of_bit", [8, -2000])
def test_flipped_bit_in_a_checkpoint(broken: Place, expected: dict[str, bytes], place_of_bit: int) -> None:
    newest = broken.checkpoints[0]
    content = bytearray(newest.read_bytes())
    content[place_of_bit] ^= 16
    newest.write_bytes(content)
    assert_falls_back(broken, expected)


def test_a_pipe_in_place_of_a_checkpoint(broken: Place, expected: dict[str, bytes]) -> None:
    newest = broken.checkpoints[0]
    newest.unlink()
    os.mkfifo(newest)
    assert_falls_back(broken, expected)


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval/train/loss.npy", "status.json", "LOCK"])
def test_a_pipe_in_place_of_another_file_is_not_waited_for(broken: Place, name: str) -> None:
    path = broken.run / name
    path.unlink()
    os.mkfifo(path)
    done = broken.train()
    if done.returncode != DONE:
        assert done.returncode in (DATA, IO) and f"{name}: is no regular file" in done.stderr


def test_every_checkpoint_corrupt(broken: Place, expected: dict[str, bytes]) -> None:
    for checkpoint in broken.checkpoints:
        os.truncate(checkpoint, 1000)
    failed = broken.train()
    assert failed.returncode == DATA
    assert "--restart" in failed.stderr.splitlines()[-1]
    restarted = broken.train("--restart")
    assert restarted.returncode == DONE
    assert_same_results(broken.run, expected)
    assert (broken.cache / "tiny/.old/tiny.1/metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval/phase_0/loss.npy", "eval/train/step.npy"])
def test_damaged_appended_file(broken: Place, name: str) -> None:
    """Damage before the mark of every checkpoint: refused, not passed over."""
    path = broken.run / name
    content = bytearray(path.read_bytes())
    content[130] ^= 1
    path.write_bytes(content)
    failed = broken.train()
    assert failed.returncode == DATA
    assert name in failed.stderr and "--restart" in failed.stderr


def test_damaged_config_of_a_run(broken: Place) -> None:
    (broken.run / "config.yaml").write_text("name: [")
    failed = broken.train()
    assert failed.returncode == 78
    assert str(broken.run / "config.yaml") in failed.stderr


def test_damaged_status_and_meta_do_not_matter(broken: Place, expected: dict[str, bytes]) -> None:
    (broken.run / "status.json").write_text("{")
    (broken.run / "meta.json").write_text("[]")
    assert broken.train().returncode == DONE
    assert broken.status()["state"] == "done"
    assert mnemo_io.read_json(broken.run / "meta.json")["sessions"]
    assert_same_results(broken.run, expected)
