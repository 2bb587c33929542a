"""The package mnemo: what is read and when, tables of groups, what a saved figure leaves, what commands import."""

import csv
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from synthetic_run import REPOSITORY, example_config, write_settings

import mnemo
from mnemo import files, runs
from mnemo.commands import compare
from mnemo.errors import MnemoError, UsageError
from mnemo.figures import save, style


@pytest.fixture
def make_seeds(make_run):
    """Runs r0, r1, ... of one folder that differ in their seeds."""

    def make(count: int) -> list:
        paths = [make_run(f"g/r{seed}") for seed in range(count)]
        for seed, path in enumerate(paths):
            write_settings(path, {**example_config(200, 16, 2000, [1000]), "run": path.name, "seed": seed})
        return paths

    return make


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """How often each .npy file is read."""
    counts: Counter = Counter()
    read = files.read_npy

    def counted(path, *arguments):
        counts[str(path)] += 1
        return read(path, *arguments)

    monkeypatch.setattr(runs, "read_npy", counted)
    return counts


def test_parts_are_read_on_first_use_and_once(run_dir, reads):
    run = mnemo.runs.open(run_dir)
    assert not reads
    loss = run.sets["train"]["loss"]
    assert run.sets["train"]["loss"] is loss and run["sets"]["train"]["loss"] is loss
    assert {path.rsplit("/eval/", 1)[1] for path in reads} == {"train/step.npy", "train/rank.npy", "train/loss.npy"}
    assert set(reads.values()) == {1}


def test_a_run_is_frozen_and_takes_other_parts(run_dir):
    run = mnemo.runs.open(run_dir)
    with pytest.raises(FrozenInstanceError):
        run.path = run_dir
    other = run.replace(switches=[])
    assert other.switches == [] and run.switches == [{"phase": 1, "step": 1000}] and other.config is run.config
    with pytest.raises(MnemoError, match="a run has no switch"):
        run.replace(switch=[])


def test_released_arrays_are_read_again(run_dir, reads):
    run = mnemo.runs.open(run_dir)
    before = run.sets["train"]["loss"].copy()
    run.release()
    assert np.array_equal(run.sets["train"]["loss"], before)
    assert max(reads.values()) == 2


def test_loading_finds_what_is_corrupt(run_dir):
    (run_dir / "eval/train/last_seen.npy").write_bytes(b"junk")
    run = mnemo.runs.open(run_dir)
    assert len(run.sets["train"]["loss"])
    with pytest.raises(MnemoError, match="last_seen.npy: not a .npy file"):
        run.load()


@pytest.mark.parametrize("options", [[], ["--figure", "f.png"]])
def test_a_comparison_reads_no_file_twice(make_seeds, reads, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert compare.main([*map(str, make_seeds(3)), "--replicates", "3", *options]) == 0
    assert len(reads) > 10 and set(reads.values()) == {1}
    assert not [path for path in reads if "last_seen" in path or "sequences" in path]


def test_a_comparison_of_many_runs_keeps_few_arrays(make_seeds, monkeypatch):
    paths = make_seeds(3)
    monkeypatch.setattr(mnemo.members, "MAX_OPEN", 2)
    found = mnemo.members.find(paths)
    result = mnemo.comparison.compare(found, None, "ceiling:0.9", 3)
    assert not any({"sets", "theory"} & set(vars(run)) for member in found for run in member.runs)
    monkeypatch.setattr(mnemo.members, "MAX_OPEN", 32)
    kept = mnemo.comparison.compare(mnemo.members.find(paths), None, "ceiling:0.9", 3)
    assert repr(result) == repr(kept)


def test_a_group_is_a_table_with_the_settings_that_differ(make_seeds):
    paths = make_seeds(2)
    group = mnemo.runs.open(paths[0].parent)
    assert [run.path for run in group.runs] == paths
    frame = group.to_frame("phase_0")
    assert list(frame.columns[:3]) == ["run", "seed", "step"]
    assert set(frame["run"]) == {"r0", "r1"} and set(frame["seed"]) == {0, 1}
    one = group.runs[1].to_frame("phase_0")
    assert np.array_equal(frame[frame["run"] == "r1"]["loss"], one["loss"])
    with pytest.raises(KeyError, match="no run has a set 'phase_7'"):
        group.to_frame("phase_7")


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        mnemo.runs.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        mnemo.runs.open(tmp_path / "absent")


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_figure_is_saved_with_what_is_plotted_and_where_it_comes_from(run_dir, suffix, tmp_path):
    run = mnemo.runs.open(run_dir).replace(meta={"revision": "1234abc"})
    table = {"run": ["a", "b, c"], "loss": np.array([0.1, np.nan]), "step": [1, 2]}
    path = tmp_path / f"figure{suffix}"
    for _ in range(2):
        before = path.read_bytes() if path.exists() else None
        with style.matplotlib_style():
            figure, panels = style.panels()
            panels["loss"].plot([1, 2], [0.1, 0.2])
            save(figure, path, [run], table)
    assert path.read_bytes() == before, "the same figure has the same bytes"
    with open(tmp_path / "figure.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["run", "loss", "step"], ["a", "0.1", "1"], ["b, c", "", "2"]]
    said = f"runs: {run_dir}; revision: 1234abc; drawn by mnemo {mnemo.__version__}".encode()
    assert said in path.read_bytes().replace(b"\\", b"")


def test_the_sidecar_of_a_frame_is_its_columns(run_dir, tmp_path):
    frame = mnemo.runs.open(run_dir).to_frame()
    with style.matplotlib_style():
        save(style.panels()[0], tmp_path / "a.png", table=frame)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        titles, *rows = csv.reader(file)
    assert titles == list(frame.columns)
    assert np.array_equal(np.array([row[titles.index("train_loss")] for row in rows], float), frame["train_loss"])


def test_metadata_takes_any_path(tmp_path):
    strange = runs.Run(tmp_path / "a\nb\udcff ∂")
    with style.matplotlib_style():
        for suffix in (".png", ".pdf", ".svg"):
            save(style.panels()[0], tmp_path / f"a{suffix}", [strange])
    with pytest.raises(UsageError, match="the format must be one of .png, .pdf, .svg"):
        save(style.panels()[0], tmp_path / "a.gif")


@pytest.mark.parametrize("script", ["analysis.py", "compare.py", "plot_run.py", "mnemo_io.py", "export_check.py"])
def test_a_command_starts_without_what_it_may_not_need(script):
    unwanted = "matplotlib", "pandas", "torch", "seaborn", "plotly"
    code = f"import runpy, sys; sys.argv = ['x', '--help']\ntry: runpy.run_path({script!r}, run_name='__main__')\n"
    code += f"except SystemExit: print([name for name in {unwanted} if name in sys.modules])"
    environment = {"PYTHONPATH": ".", "PATH": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY / "scripts", env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("\n[]\n"), done.stderr


def test_modules_know_only_those_before_them():
    """The order that the package's docstring gives."""
    order = ["errors", "command", "files", "runs", "tables", "curves", "sweeps", "members", "comparison_text",
             "comparison", "bayes", "probes", "expectations", "event_files", "records", "kept", "analysis", "figures",
             "report", "engine", "reproduce", "commands"]  # fmt: skip
    folder = REPOSITORY / "scripts/mnemo"
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("from mnemo", "import mnemo.")):
                module, _, names = line.split(" ", 1)[1].partition(" import ")
                used = [module.split(".")[1]] if "." in module else names.split(", ")
                assert all(order.index(name) <= order.index(own) for name in used), f"{path}: {line}"


def test_the_build_has_the_version_of_the_package():
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "scripts/mnemo/__init__.py" in text and "project(mnemo VERSION ${MNEMO_VERSION}" in text
