"""Paths as people give them: home folders, working directories, closed places; and the commands printed for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine import BINARY, CONFIG, DATA, DONE, IO, REPOSITORY, STOPPED, USAGE, Place, call, environment, make_place

NOBODY = 65534
LONG = "n" * 300


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path / "a place", 40)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter: pytest's own are closed to them."""
    if os.getuid() != 0 or subprocess.run([str(BINARY), "--version"], user=NOBODY, capture_output=True).returncode != 0:
        pytest.skip("needs root, and a binary that others may run")
    folder = Path(f"/tmp/mnemo_paths_{os.getpid()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# Places where one cannot look -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["evaluate", "{}"], IO),
        (["export", "{}"], IO),
        (["evaluate", "{run}", "--weights", "{}"], IO),
        (["train", "{config}", "data.file={}"], CONFIG),
        (["train", "{config}", "data.weights={}"], CONFIG),
    ],
)
@pytest.mark.parametrize("kind", ["long", "loop"])
def test_a_path_that_leads_nowhere_is_named_with_the_reason(
    place: Place, tmp_path: Path, arguments: list[str], code: int, kind: str
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    place.run.mkdir(parents=True)
    shutil.copy(place.config, place.run / "config.yaml")
    path = str(loop if kind == "loop" else tmp_path / LONG)
    words = [word.format(path, run=place.run, config=place.config) for word in arguments]
    done = call([str(BINARY), *words])
    assert done.returncode == code, done.stderr
    reason = "too long" if kind == "long" else "symbolic links"
    assert path in done.stderr and reason in done.stderr and "bug" not in done.stderr


def test_a_run_in_a_closed_folder(open_folder: Path) -> None:
    (open_folder / "closed/run").mkdir(parents=True)
    os.chmod(open_folder / "closed", 0)
    for command in ("evaluate", "export"):
        refused = call([str(BINARY), command, str(open_folder / "closed/run")], user=NOBODY, cwd="/")
        assert refused.returncode == IO
        assert str(open_folder / "closed/run") in refused.stderr and "Permission denied" in refused.stderr


def test_an_environment_that_may_not_be_entered_is_passed_over(open_folder: Path) -> None:
    own = REPOSITORY / ".venv/bin/python"
    if not own.exists() or subprocess.run(["test", "-x", str(own)], user=NOBODY, cwd="/").returncode == 0:
        pytest.skip("this environment is open to everyone")
    (open_folder / "python3").write_text('#!/bin/sh\necho "another python3"\n')
    (open_folder / "python3").chmod(0o755)
    changed = environment(PATH=f"{open_folder}:{os.environ['PATH']}")
    done = call([str(BINARY), "show", "x"], user=NOBODY, cwd="/", env=changed)
    assert (done.returncode, done.stdout) == (DONE, "another python3\n"), done.stderr


# Home folders ---------------------------------------------------------------------------------------------------------


def test_a_leading_tilde_is_the_home_folder_wherever_a_path_enters(place: Place) -> None:
    home = environment(HOME=str(place.root))
    options = {"env": home, "cwd": place.root}
    np.save(place.root / "bits.npy", np.eye(20, 8, dtype=np.int64))

    def mnemo(*arguments: str, **changes: str) -> str:
        done = call([str(BINARY), *arguments], cwd=place.root, env={**home, **changes})
        assert done.returncode == DONE, done.stderr
        return done.stdout

    assert call([str(BINARY), "train", "~/tiny.yaml", "--cache=~/cache"], **options).returncode == DONE
    assert (place.run / "final.safetensors").exists()
    assert f"run        {place.root}/other/tiny/tiny" in mnemo(
        "train", "~/tiny.yaml", "--dry-run", MNEMO_CACHE="~/other"
    )
    text = mnemo("config", "~/tiny.yaml", "data={file: ~/bits.npy}")
    assert f"{place.root}/bits.npy" in text
    mnemo("evaluate", "~/cache/tiny/tiny", "--weights=~/cache/tiny/tiny/final.safetensors", "--out=~/scores")
    mnemo("show", "~/cache/tiny/tiny", "--csv=~/metrics.csv")
    assert (place.root / "scores/phase_0/loss.npy").exists() and (place.root / "metrics.csv").exists()
    assert not (place.root / "~").exists()


def test_other_homes_and_no_home_are_refused(place: Place) -> None:
    other = place.train("--cache=~somebody/x", cwd=place.root)
    assert other.returncode == USAGE and "~somebody/x: only ~ and ~/ mean a home folder" in other.stderr
    homeless = {key: value for key, value in environment(MNEMO_CACHE="~/x").items() if key != "HOME"}
    for command in (["train", str(place.config)], ["show", "~/x"]):
        refused = call([str(BINARY), *command], cwd=place.root, env=homeless)
        assert refused.returncode == USAGE and "~/x: HOME is not set" in refused.stderr
    assert call([str(BINARY), "config", str(place.config), "data.file=~you/x"]).returncode == CONFIG
    assert {path.name for path in place.root.iterdir()} == {"tiny.yaml"}


# Working directories --------------------------------------------------------------------------------------------------


def test_files_of_overrides_are_of_the_working_directory(place: Place, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for folder in (place.root, tmp_path / "here"):
        np.save(folder / "bits.npy", np.eye(20, 8, dtype=np.int64))
    text = place.config.read_text()
    for override in ("data.file=bits.npy", "data={file: bits.npy}"):
        given = call([str(BINARY), "config", str(place.config), override], cwd=tmp_path / "here")
        assert given.returncode == DONE, given.stderr
        assert f"{tmp_path}/here/bits.npy" in given.stdout
    place.config.write_text(text.replace("{num_sequences: 20, length: 8}", "{file: bits.npy}"))
    in_file = call([str(BINARY), "config", str(place.config), "data.zipf_exponent=2"], cwd=tmp_path / "here")
    assert f"{place.root}/bits.npy" in in_file.stdout
    missing = call(
        [str(BINARY), "config", str(place.config), "events.0={kind: load, at: 1, from: a/b}"], cwd=tmp_path / "here"
    )
    assert missing.returncode == CONFIG and f"{tmp_path}/here/a/b" in missing.stderr


def pasted(command: str) -> subprocess.CompletedProcess[str]:
    """What comes of a printed command in a clean shell in /."""
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, shell=True, capture_output=True, text=True, cwd="/", env=clean, timeout=60)


@pytest.mark.parametrize("cache", ["option", "variable", "default"])
def test_printed_commands_reach_the_same_folder_from_anywhere(place: Place, cache: str) -> None:
    program = os.path.relpath(BINARY, place.root)
    options = ["--cache", "cache"] if cache == "option" else []
    env = environment(**({"MNEMO_CACHE": "cache"} if cache == "variable" else {}))
    np.save(place.root / "bits.npy", np.eye(20, 8, dtype=np.int64))
    stopped = call(
        [program, "train", "tiny.yaml", "run=tiny", "data.file=bits.npy", "--max-hours", "1e-9", *options],
        cwd=place.root,
        env=env,
    )
    assert stopped.returncode == STOPPED, stopped.stderr
    unfinished = call([program, "export", "cache/tiny/tiny"], cwd=place.root, env=env)
    assert unfinished.returncode == DATA
    resume = stopped.stdout.splitlines()[-1].strip()
    assert unfinished.stderr.splitlines()[-1].strip() == resume
    done = pasted(resume)
    assert done.returncode == DONE and "resumed at step" in done.stderr, done.stderr
    again = call(
        [program, "train", "cache/tiny/tiny/config.yaml"], cwd=place.root, env=environment(MNEMO_CACHE="elsewhere")
    )
    assert again.returncode == DONE and again.stdout.splitlines()[-1] == f"already done: {place.run}"
    [plot] = [line for line in done.stdout.splitlines() if line.startswith("next:")]
    assert pasted(plot.removeprefix("next:").replace(" plot ", " show ")).returncode == DONE
    assert {path.name for path in place.root.iterdir()} == {"tiny.yaml", "bits.npy", "cache"}
