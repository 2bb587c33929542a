"""An installed prefix runs from anywhere, without the source tree; a long run needs no more memory than a short one."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/release"


@pytest.mark.slow
def test_installed_prefix_runs_from_anywhere(tmp_path: Path) -> None:
    install = ["cmake", "--install", str(BUILD), "--prefix", str(tmp_path / "made")]
    subprocess.run(install, check=True, capture_output=True)
    prefix = shutil.move(tmp_path / "made", tmp_path / "moved here")  # as if it were copied to another machine
    mnemo = str(Path(prefix) / "bin/mnemo")
    config = str(Path(prefix) / "share/mnemo/configs/quickstart.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def call(*arguments: str) -> str:
        environment = {**os.environ, "MNEMO_PYTHON": str(ROOT / ".venv/bin/python")}
        done = subprocess.run(
            [mnemo, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert str(Path(prefix) / "share/mnemo/scripts") in call("doctor")
    assert "results: cache/quickstart/quickstart" in call("train", config, "train.steps=40", "--progress", "none")
    assert "step 40 of 40" in call("show", "cache/quickstart/quickstart")
    assert call("plot", "cache/quickstart/quickstart").strip().endswith("figure.png")
    assert (elsewhere / "cache/quickstart/quickstart/figure.png").stat().st_size > 10_000
    libraries = subprocess.run(["ldd", mnemo], capture_output=True, text=True, check=True).stdout
    for name in ("yaml-cpp", "spdlog", "libfmt", "xxhash"):
        assert name not in libraries, "an installed binary needs LibTorch alone"


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_thousand_steps(tmp_path: Path) -> None:
    config = tmp_path / "long.yaml"
    config.write_text(
        "name: long\nthreads: 1\ndata: {num_sequences: 50, length: 8}\nmodel: {heads: 1, head_dim: 4, mlp_layers: 1}\n"
        "train: {steps: 100000, batch_size: 4, log_every: 1000}\neval: {every: 5000, novel: 10}\n"
    )
    command = [str(BUILD / "mnemo"), "train", str(config), "--cache", str(tmp_path / "cache"), "--progress", "none"]
    for steps in (2000, 100000):  # the same run, extended
        subprocess.run([*command, f"train.steps={steps}"], check=True, capture_output=True)
    lines = (tmp_path / "cache/long/long/timing.jsonl").read_text().splitlines()
    short, long = (json.loads(lines[index]) for index in (0, -1))
    assert (short["step"], long["step"]) == (2000, 100000)
    assert long["rss_mb"] < short["rss_mb"] + 20
