"""An installed prefix runs from anywhere, without the source tree, as does the Python package; memory of a long run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
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
def test_the_wheel_of_the_package_needs_numpy_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves files beside it
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "scripts", source / "scripts", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = [sys.executable, *"-m pip wheel --no-build-isolation --no-deps --no-index -w".split(), str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mnemo-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    present = {str(path.relative_to(ROOT / "scripts")) for path in (ROOT / "scripts/mnemo").rglob("*.py")}
    unpacked = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.py")}
    assert unpacked == present | {"mnemo_io.py"}
    code = "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'pandas', 'torch', 'scipy')))\n"
    code += "import mnemo, mnemo_io, mnemo.commands.plot; print(mnemo.runs.__file__, mnemo.curves.rank_bins(20))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}/site/mnemo/runs.py [(0, 10), (10, 20)]\n", done.stderr


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
