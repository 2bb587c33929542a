"""The table of figures, its arithmetic on synthetic runs, and one figure made from nothing by the engine."""

import csv
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import LN2, REPOSITORY

from mnemo import curves, engine, reproduce
from mnemo.commands import reproduce as command
from mnemo.errors import CannotCreate, DataError
from mnemo.figures import draft, memory, style
from mnemo.runs import Run

DRAFT = {"1", "2", "3", "4", "5", "6", "7", "8", "9", "9b"}
OWN = {"clock", "transplant", "bits", "probe", "overlay", "fit"}


# The table ------------------------------------------------------------------------------------------------------------


def test_the_table_holds_every_figure_once():
    assert len(reproduce.names()) == len(set(reproduce.names())) and set(reproduce.names()) == DRAFT | OWN


@pytest.mark.parametrize("entry", reproduce.FIGURES, ids=lambda entry: entry.name)
def test_an_entry_is_whole(entry):
    for name in (*entry.small, *entry.full):
        assert (REPOSITORY / "configs" / name).is_file(), name
    assert len(entry.small) == len(entry.full)
    for small in (False, True):
        expectations = entry.expectations(small)
        keys = [expectation.key for expectation in expectations]
        assert expectations and len(keys) == len(set(keys))
        assert all(expectation.source and expectation.what for expectation in expectations)
        assert all(np.isfinite(e.value) or e.relation in ("rises", "falls") for e in expectations)
    assert list(inspect.signature(entry.draw).parameters) == ["groups", "small"]


def test_the_list_names_all_of_it(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    for entry in reproduce.FIGURES:
        assert f"\n{entry.name} " in f"\n{printed}" and all(name in printed for name in (*entry.small, *entry.full))
    assert "estimate" in printed
    assert command.main(["--list", "4"]) == 0 and capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["10"], "no figure '10'; there are: 1, 2,"), (["4", "5", "-o", "a.png"], "-o names the file of one figure")],
)
def test_requests_that_cannot_be_met(arguments, said, capsys):
    assert command.main(arguments) == 64
    assert said in capsys.readouterr().err


# What is measured -----------------------------------------------------------------------------------------------------


def test_the_clock_reads_the_age_of_a_presentation():
    """A loss that is a function of age and count alone comes back as that function."""
    generator = np.random.default_rng(0)
    step = np.array([10, 20, 40])
    seen = step[:, None] - generator.integers(0, 9, (3, 50))
    count = generator.integers(1, 100, (3, 50))
    age = step[:, None] - seen
    loss = (0.1 * age + np.where(count < 10, 1.0, 0.0)).astype(np.float32)
    seen[0, 0], count[0, 0], loss[0, 0] = -1, 0, 99.0  # never drawn: in no mean
    columns = {"step": step, "last_seen": seen, "presentations": count, "loss": loss}
    ages = np.arange(11)
    mean, mean_age, number = curves.forgetting_clock(columns, np.arange(3), [(1, 10), (10, 100)], ages)
    assert number.sum() == 149
    for index, offset in enumerate((1.0, 0.0)):
        kept = number[index] > 0
        assert mean_age[index][kept] == pytest.approx(ages[:-1][kept])
        assert mean[index][kept] == pytest.approx(0.1 * ages[:-1][kept] + offset, abs=1e-5)
    assert curves.age_edges(9).tolist() == [0, 1, 2, 4, 8, 16]


def test_stored_bits_are_those_of_the_formula():
    """All K sequences known: K (L - 1) bits; a guess: none; one nat above chance: as many nats lost."""
    assert curves.stored_bits(np.zeros(5), 19, 5) == pytest.approx(95)
    assert curves.stored_bits(np.full(5, LN2), 19, 5) == pytest.approx(0)
    assert curves.stored_bits(np.array([0.0, LN2]), 10, 4) == pytest.approx(20)  # the scored half stands for all
    assert curves.stored_bits(np.array([LN2 + 1.0]), 10, 1) == pytest.approx(-10 / LN2)


def test_the_largest_learned_rank_averages_over_neighbours():
    rank = np.arange(100)
    assert curves.largest_learned_rank(rank, np.where(rank < 40, 0.1, -0.1), 5) == 39
    assert curves.largest_learned_rank(rank, np.full(100, -0.1), 5) == -1
    assert curves.largest_learned_rank(rank, np.full(100, 0.1), 5) == 99
    lucky = np.where(rank < 40, 0.1, -0.1)
    lucky[90] = 0.5  # one learned rank among strangers is not enough
    assert curves.largest_learned_rank(rank, lucky, 5) == 39
    assert curves.largest_learned_rank(rank[::10], np.where(rank[::10] < 40, 0.1, -0.1), 5) == 30


def test_block_and_rolling_means():
    assert curves.block_means(np.arange(7), 3).tolist() == [1.0, 4.0]
    assert curves.rolling_mean(np.array([1.0, 2.0, 3.0, 6.0]), 2).tolist() == [1.0, 1.5, 2.5, 4.5]


# Figures of synthetic runs --------------------------------------------------------------------------------------------


def drawn(entry: str, groups, small: bool = True):
    with style.matplotlib_style():
        return reproduce.figure(entry).draw(groups, small)


def test_the_figure_of_a_switch_shows_the_run(make_run):
    run = Run(make_run())
    found = drawn("5", [[run]])
    width = run.num_sequences // 10
    for phase in (0, 1):
        columns = draft.current(run, phase)
        wanted = columns["accuracy"][:, width : 2 * width].mean(axis=1)
        got = [
            a
            for a, p, r in zip(*(found.table[k] for k in ("accuracy", "phase", "first_rank")))
            if (p, r) == (phase, width)
        ]
        assert got == pytest.approx(wanted)
    assert len(found.figure.axes) == 3
    assert all(len(panel.lines) == 2 * 2 + 2 for panel in found.figure.axes)  # curves, ceilings, chance, switch
    assert found.measured["plateaus"] == sorted(found.measured["plateaus"], reverse=True)
    assert found.measured["gain"] > 0  # the synthetic second phase is twice as fast


def test_figures_1_and_2_tell_models_apart(make_run):
    runs = []
    for index, parameters in enumerate((1000, 5000)):
        run = make_run(f"run_{index}", steps=2000 * (index + 1), switches=(2000 * (index + 1),))
        facts = json.loads((run / "run.json").read_text())
        facts["facts"]["model"]["num_parameters"] = parameters
        (run / "run.json").write_text(json.dumps(facts))
        runs.append(Run(run))
    first = drawn("1", [runs])
    assert first.table["parameters"] == [1000, 5000] and first.table["run"] == ["run_0", "run_1"]
    assert first.table["largest_learned_rank"][1] > first.table["largest_learned_rank"][0] > 0
    assert first.measured["accuracy_by_parameters"] == pytest.approx(first.table["accuracy"])
    assert drawn("2", [runs]).measured["slope"] < 1.0


def test_bits_are_against_parameters(make_run):
    run = Run(make_run())
    found = drawn("bits", [[run]])
    columns = curves.phase_columns(run.sets, 0)
    before = curves.moments(columns, 0, run.switches)[1]
    assert found.table["bits"] == pytest.approx([curves.stored_bits(columns["loss"][before], 15, 200)])
    assert found.table["bits_per_parameter"] == pytest.approx([found.table["bits"][0] / 10])


def test_the_clock_is_drawn_in_both_phases(make_run):
    found = drawn("clock", [[Run(make_run())]])
    assert set(found.table["phase"]) == {0, 1} and min(found.table["scores"]) >= memory.MIN_SCORES
    points = sum(
        len(line.get_xdata()) for panel in found.figure.axes for line in panel.lines if line.get_marker() == "o"
    )
    assert points == len(found.table["loss"])


@pytest.mark.parametrize(("name", "said"), [("6", "swap_test"), ("8", "attn_reps"), ("9", "log_every: 1"),
                                            ("transplant", "transplant"), ("7", "fork_probe")])  # fmt: skip
def test_a_run_that_lacks_something_says_what(make_run, name, said):
    with pytest.raises(DataError, match=said):
        drawn(name, [[Run(make_run())]])


def test_a_result_is_a_figure_its_numbers_and_verdicts(make_run, tmp_path):
    run = Run(make_run())
    result = reproduce.draw(reproduce.figure("5"), True, [[run]], tmp_path / "out/5.png")
    assert result.path.read_bytes()[:4] == b"\x89PNG" and str(run.path).encode() in result.path.read_bytes()
    with open(result.path.with_suffix(".csv"), encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3 * sum(len(draft.current(run, phase)["step"]) for phase in (0, 1))
    assert [verdict.what for verdict in result.verdicts] == [e.what for e in reproduce.figure("5").expected_small]
    text = command.summary(reproduce.figure("5"), True, result)
    assert "measured" in text.splitlines()[1] and ("as expected in all" in text or "differs in" in text)


# The engine -----------------------------------------------------------------------------------------------------------

BINARY = Path(os.environ.get("MNEMO_BINARY", REPOSITORY / "build/release/mnemo"))
SMALL = """\
# Question  tiny
name: tiny_sweep
threads: 1
device: cpu
data:  {num_sequences: 20, length: 8}
model: {kind: one_layer_attention, heads: 1, mlp_layers: 1}
train: {steps: 60, batch_size: 8, lr: 1.0e-2, log_every: 10}
eval:  {every: 20, train_stride: 1, novel: 0}
sweep:
  model.head_dim: [2, 8]
  model.mlp_ratio: [1, 2]
"""


def test_no_engine_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "PROJECT", tmp_path)
    monkeypatch.delenv("MNEMO_PROGRAM", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(CannotCreate, match="the engine is not built"):
        engine.program()
    with pytest.raises(CannotCreate, match="no such configuration"):
        engine.configuration("nothing.yaml")


@pytest.fixture
def project(monkeypatch, tmp_path):
    """A checkout with one configuration, and the engine of this one."""
    if not BINARY.is_file():
        pytest.skip(f"{BINARY} is not built")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/width_frontier.yaml").write_text(SMALL)
    monkeypatch.setattr(engine, "PROJECT", tmp_path)
    monkeypatch.setenv("MNEMO_PROGRAM", str(BINARY))
    return tmp_path


def test_a_figure_is_made_from_nothing_and_again_from_what_is_there(project, capfd):
    assert command.main(["4", "--small", "--cache", str(project / "cache")]) == 0
    printed = capfd.readouterr().out
    assert printed.startswith("figure 4 (small") and "as expected" in printed
    group = project / "cache/tiny_sweep"
    states = [json.loads(file.read_text())["state"] for file in group.glob("*/status.json")]
    assert states == ["done"] * 4
    with open(project / "cache/figures/4_small.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row["width"] for row in rows} == {"2", "8"}
    for row in rows:
        assert float(row["train_loss"]) == Run(group / row["run"]).metrics["train_loss"][-1]
    before = {file: file.stat().st_mtime_ns for file in group.glob("*/metrics.jsonl")}
    assert command.main(["4", "--small", "--cache", str(project / "cache")]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in group.glob("*/metrics.jsonl")}
    assert capfd.readouterr().out == printed


def test_a_dry_run_prints_commands_that_work_and_does_nothing(project, capsys):
    assert command.main(["4", "--small", "--dry-run", "--cache", str(project / "cache")]) == 0
    line = capsys.readouterr().out.splitlines()[1].strip()
    assert not (project / "cache").exists()
    assert subprocess.run(f"{line} --dry-run", shell=True, capture_output=True, check=True).returncode == 0


def test_what_the_engine_refuses_comes_with_its_code(project):
    (project / "configs/width_frontier.yaml").write_text(SMALL.replace("heads: 1", "heads: 0"))
    with pytest.raises(engine.EngineError, match="model.heads") as refused:
        engine.carry_out(engine.configuration("width_frontier.yaml"), project / "cache")
    assert refused.value.code == 78


def test_runs_that_are_not_done_are_not_drawn(make_run):
    with pytest.raises(DataError, match="not done; the same command draws when they are"):
        engine.runs_of(make_run(until=500), swept=False)


def test_the_entry_points_start():
    for script in ("reproduce.py", "linear_probe.py"):
        shown = subprocess.run(
            [sys.executable, REPOSITORY / "scripts" / script, "--help"], capture_output=True, text=True
        )
        assert shown.returncode == 0 and "examples:" in shown.stdout
