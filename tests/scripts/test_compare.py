"""compare.py: members, tables, refusals, the figure."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import mnemo_io
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_run import REPOSITORY, Curves, example_config, never_drawn, overprinted, write_set, write_settings

from mnemo import comparison, comparison_text, curves, members
from mnemo.commands import compare
from mnemo.figures import presentations
from mnemo.runs import Run

SCRIPT = REPOSITORY / "scripts/compare.py"


def call(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def result_of(capsys, *arguments):
    assert compare.main([*map(str, arguments), "--format", "json", "--replicates", "50"]) == 0
    return json.loads(capsys.readouterr().out)


def reseed(run_dir, seed, **changes):
    """Gives a synthetic run another seed, and its curves another wobble."""
    config = example_config(200, 16, 2000, [1000])
    config["seed"] = config["data"]["seed"] = seed
    config["run"] = run_dir.name
    facts = {}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        (facts if section == "facts" else config[section])[name] = value
    write_settings(run_dir, config, **facts)
    for file in run_dir.glob("eval/phase_*/accuracy.npy"):
        np.save(file, np.load(file) - np.float32(0.004 * seed))
    return run_dir


def every_tenth(run_dir):
    for folder in run_dir.glob("eval/phase_*"):
        for name in ("rank", "presentations", "last_seen", "loss", "accuracy"):
            np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy")[..., ::10])
    return run_dir


def swap_test(run_dir, gain=0.2):
    """A swap of weights at the end brings `gain` back on the first sequences."""
    folder = run_dir / "eval/swap.phase_0"
    write_set(folder, [(2000, 1, 0)], np.arange(200), Curves(200, 16, [1000]))
    forgotten = np.load(run_dir / "eval/phase_0/accuracy.npy")[-1:]
    np.save(folder / "accuracy.npy", forgotten + np.float32(gain))


# Members --------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_only_in_seeds_are_one_member(make_run):
    a, b, c = (reseed(make_run(f"a/s{seed}"), seed) for seed in range(3))
    other = reseed(make_run("b/s0"), 0, train__lr=3e-3)
    found = members.find([a, b, other, c])
    assert [member.name for member in found] == ["a/s0 (3 seeds)", "b/s0"]
    assert [run.path for run in found[0].runs] == [a, b, c]
    assert len(members.find([a, b, other, c], each=True)) == 4
    assert [len(member.runs) for member in members.find([a.parent])] == [3]
    assert members.find([a, a])[0].runs == [Run(a)]


def test_a_member_is_named_by_its_directory(make_run):
    a, b = reseed(make_run("x/demo"), 0), reseed(make_run("y/demo"), 0, model__heads=8)
    assert [member.name for member in members.find([a, b])] == ["x/demo", "y/demo"]
    assert [member.name for member in members.find([a])] == ["demo"]
    assert [member.name for member in members.find([a], beside=[b.parent])] == ["x/demo"]


def test_differing_settings_name_what_tells_members_apart(make_run):
    a, b = reseed(make_run("a"), 0), reseed(make_run("b"), 1, model__heads=8, train__lr=0.1)
    assert members.differing_settings(members.find([a, b])) == ["model.heads", "train.lr"]


def set_state(run_dir, state, step, steps=2000):
    (run_dir / "status.json").write_text(json.dumps({"state": state, "step": step, "steps": steps}))
    return run_dir


@pytest.mark.parametrize("state", ["stopped", "running", "diverged", "at_chance", "failed"])
def test_a_run_that_is_not_done_is_no_seed_among_others(make_run, capsys, state):
    done = [reseed(make_run(f"s{seed}"), seed) for seed in range(2)]
    other = set_state(reseed(make_run("s2", until=1500), 2), state, 1510)
    result = result_of(capsys, *done, other)
    names = ["s0 (2 seeds)", f"s2 ({state.replace('_', ' ')} at step 1510 of 2000)"]
    assert [member["name"] for member in result["members"]] == names
    assert any(note.startswith(f"{names[1]}: not done") for note in result["notes"])
    means = [row for row in result["bins"] if row["run"] == names[0]]
    assert means == result_of(capsys, *done)["bins"]
    assert {row["run"] for row in result["memory"]} == set(names)


def test_runs_that_ended_at_other_steps_say_so(make_run, capsys):
    a, b = reseed(make_run("a"), 0), reseed(make_run("b", steps=3000), 0, train__steps=3000)
    assert "the number of steps differs (2000, 3000): the end is the last evaluation of each" in result_of(
        capsys, a, set_state(b, "done", 3000, 3000)
    )["notes"]  # fmt: skip


def test_runs_with_equal_data_and_weights_are_no_seeds(make_run, capsys):
    pinned = [reseed(make_run(f"s{seed}"), seed, data__seed=0, model__seed=0) for seed in range(3)]
    follows = reseed(make_run("f0"), 0, data__seed=None, model__seed=None)
    other = reseed(make_run("f1"), 1, data__seed=None)
    result = result_of(capsys, *pinned, follows, other)
    assert [(member["name"], len(member["runs"])) for member in result["members"]] == [("s0 (2 seeds)", 2)]
    left_out = [note for note in result["notes"] if f"data and weights are those of {pinned[0]}" in note]
    assert [note.split(":")[0] for note in left_out] == [str(path) for path in (*pinned[1:], follows)]
    assert len(members.find(pinned, each=True)) == 3
    for run in pinned[:2]:  # seeds that nobody knows are not equal
        write_settings(run, example_config(200, 16, 2000, [1000]), seeds={"data": None, "model": None})
    assert len(members.find(pinned[:2])[0].runs) == 2


# Tables ---------------------------------------------------------------------------------------------------------------


def test_bins_hold_what_the_native_files_say(run_dir, capsys):
    rows = result_of(capsys, run_dir)["bins"]
    assert [(row["first_rank"], row["last_rank"], row["phase"]) for row in rows[:3]] == [
        (0, 9, 0),
        (0, 9, 1),
        (10, 99, 0),
    ]
    first, second = mnemo_io.read_set(run_dir / "eval/phase_0"), mnemo_io.read_set(run_dir / "eval/phase_1")
    before = curves.rows_before(first["step"], 1000).stop - 1
    assert rows[0]["accuracy_before"] == pytest.approx(first["accuracy"][before, :10].mean())
    assert rows[0]["loss_end"] == pytest.approx(first["loss"][-1, :10].mean())
    assert rows[1]["accuracy_start"] == pytest.approx(second["accuracy"][0, :10].mean())
    assert rows[1]["accuracy_before"] == rows[1]["accuracy_end"]
    ceiling = np.load(run_dir / "theory/phase_0.npy")[:10, 1].mean()
    assert rows[0]["ceiling"] == pytest.approx(ceiling)
    reached = first["accuracy"][: before + 1, :10].mean(axis=1) >= 0.5 + 0.9 * (ceiling - 0.5)
    assert rows[0]["presentations"] == pytest.approx(first["presentations"][reached.argmax(), :10].mean())
    assert rows[0]["presentations_after"] == pytest.approx(first["presentations"][reached.argmax() - 1, :10].mean())
    assert rows[1]["speedup"] == pytest.approx(rows[0]["presentations"] / rows[1]["presentations"])
    assert rows[0]["speedup"] is None
    assert rows[1]["speedup_low"] <= rows[1]["speedup"] <= rows[1]["speedup_high"]


def test_a_threshold_not_reached_is_censored_never_a_number(run_dir, capsys):
    rows = result_of(capsys, run_dir, "--threshold", "ceiling:1")["bins"]
    tail = [row for row in rows if row["first_rank"] == 100]
    assert [row["presentations"] for row in tail] == [None, None]
    assert tail[0]["seen"] > 0
    assert compare.main([str(run_dir), "--threshold", "ceiling:1", "--table", "bins"]) == 0
    assert f"> {tail[0]['seen']:,.4g}" in capsys.readouterr().out


def test_ranks_that_are_never_drawn_are_in_no_number(run_dir, capsys):
    whole, result = result_of(capsys, run_dir), result_of(capsys, never_drawn(run_dir, 150))
    said = f"{run_dir}: 50 ranks have probability 0 and are never drawn: they are in no number"
    assert said in result["notes"] and said not in whole["notes"]
    assert not any("every run in it" in note for note in result["notes"])
    for before, row in zip(whole["bins"], result["bins"]):
        if row["last_rank"] < 150:
            assert row == before
    tail = next(row for row in result["bins"] if row["first_rank"] == 100)
    folder, theory = mnemo_io.read_set(run_dir / "eval/phase_0"), np.load(run_dir / "theory/phase_0.npy")
    assert tail["ranks"] == 50
    assert (tail["floor"], tail["ceiling"]) == pytest.approx(tuple(theory[100:150].mean(axis=0)))
    assert tail["accuracy_end"] == pytest.approx(folder["accuracy"][-1, 100:150].mean())
    bits = ((np.log(2) - theory[:150, 0]) * 15 / np.log(2)).sum()
    assert result["memory"][0]["bits_bayes"] == pytest.approx(bits)


def test_the_same_call_gives_the_same_bytes(run_dir):
    first = call(run_dir, "--format", "json")
    assert first.returncode == 0, first.stderr
    assert first.stdout == call(run_dir, "--format", "json").stdout


def test_seeds_give_means_and_medians(make_run, capsys):
    runs = [reseed(make_run(f"s{seed}"), seed) for seed in range(3)]
    row = result_of(capsys, *runs)["bins"][0]
    single = [result_of(capsys, run)["bins"][0] for run in runs]
    assert row["accuracy_before"] == pytest.approx(np.mean([one["accuracy_before"] for one in single]))
    assert row["presentations"] == np.median([one["presentations"] for one in single])
    assert row["run"] == "s0 (3 seeds)"


def test_switch_and_memory_tables(run_dir, capsys):
    result = result_of(capsys, run_dir)
    old, new = result["bins"][:2]
    switch = result["switches"][0]
    assert switch["drop"] == pytest.approx(old["accuracy_before"] - new["accuracy_start"])
    assert switch["recovery"] == pytest.approx((new["accuracy_end"] - new["accuracy_start"]) / switch["drop"])
    memory = result["memory"][0]
    loss = mnemo_io.read_set(run_dir / "eval/phase_0")["loss"].astype(float)
    assert memory["bits_end"] == pytest.approx(((np.log(2) - loss[-1]) * 15 / np.log(2)).sum())
    floor = np.load(run_dir / "theory/phase_0.npy")[:, 0]
    assert memory["bits_bayes"] == pytest.approx(((np.log(2) - floor) * 15 / np.log(2)).sum())
    assert (memory["parameters"], memory["rank_stride"]) == (10, 1)
    assert memory["bits_per_parameter"] == pytest.approx(memory["bits_before"] / 10)


def test_a_model_that_predicts_bit_1_too_has_one_prediction_more(make_run, capsys):
    plain = result_of(capsys, reseed(make_run("a"), 0))["memory"][0]["bits_before"]
    dam = result_of(capsys, reseed(make_run("b"), 0, facts__first_position=0))["memory"][0]["bits_before"]
    assert dam == pytest.approx(plain * 16 / 15)


def test_a_model_that_names_sequences_has_another_chance_and_stores_no_bits(make_run, capsys):
    result = result_of(capsys, reseed(make_run("a"), 0, facts__task="sequences"), "--threshold", "ceiling:0.8")
    plain = result_of(capsys, reseed(make_run("b"), 0), "--threshold", "ceiling:0.8")
    assert result["memory"][0]["bits_before"] is None
    assert any("chance is 1/K" in note for note in result["notes"])
    assert result["bins"][0]["presentations"] < plain["bins"][0]["presentations"]  # from 1/200 up, 80 % is a lower bar


def test_swap_recovery_beside_the_same_evaluation_without_the_swap(run_dir, capsys):
    swap_test(run_dir)
    rows = result_of(capsys, run_dir)["swaps"]
    old = result_of(capsys, run_dir)["bins"][0]
    assert (rows[0]["event"], rows[0]["set"], rows[0]["step"], len(rows)) == ("swap", "phase_0", 2000, 3)
    assert rows[0]["before"] == pytest.approx(old["accuracy_before"])
    assert rows[0]["unswapped"] == pytest.approx(old["accuracy_end"])
    assert rows[0]["swapped"] == pytest.approx(old["accuracy_end"] + 0.2)
    assert rows[0]["recovery"] == pytest.approx(0.2 / (old["accuracy_before"] - old["accuracy_end"]), abs=1e-4)


def test_different_lengths_are_said(make_run, capsys):
    runs = make_run("a", length=16), make_run("b", length=32, num_sequences=100)
    result = result_of(capsys, *runs)
    assert any(note.startswith("L differs (16, 32): compared by presentations") for note in result["notes"])
    assert any(note.startswith("K differs (200, 100)") for note in result["notes"])
    assert max(row["last_rank"] for row in result["bins"]) == 99


def test_runs_that_scored_different_ranks_are_compared_over_the_common_ones(make_run, capsys):
    full, sampled = reseed(make_run("full"), 0), every_tenth(reseed(make_run("sampled"), 0, model__heads=8))
    result = result_of(capsys, full, sampled)
    first, second = result["bins"][:2]
    assert (first["run"], second["run"], first["ranks"]) == ("full", "sampled", 1)
    assert first["accuracy_before"] == second["accuracy_before"]
    assert first["presentations_low"] is None  # one rank of one seed has no interval
    assert [row["distance"] for row in result["distances"]] == [0] * 6
    assert result["memory"][0]["rank_stride"] == 10
    assert "phase 0: numbers are over the 20 ranks that every run in it has scored" in result["notes"]
    assert "ranks 0-9 (1): 1 of these ranks was scored" in result["notes"]
    assert compare.main([str(sampled), "--replicates", "10"]) == 0
    assert "\n0-9 (1) " in capsys.readouterr().out
    alone = result_of(capsys, full)
    assert alone["bins"][0]["ranks"] == 10
    assert not any("every run" in note for note in alone["notes"])


@pytest.mark.parametrize("options", [{"switches": ()}, {"switches": (), "num_sequences": 50}, {"until": 500}])
def test_a_run_that_never_reached_a_phase_leaves_its_numbers_alone(make_run, tmp_path, capsys, options):
    full, other = make_run("full"), every_tenth(make_run("other", **options))
    alone, both = result_of(capsys, full), result_of(capsys, full, other)
    for table, key in (("bins", "phase"), ("memory", "phase"), ("switches", "switch")):
        rows = [row for row in both[table] if row["run"] == "full" and row[key] == 1]
        assert rows == [row for row in alone[table] if row[key] == 1] != [], table
    assert both["bins"][0]["ranks"] == 1 and alone["bins"][0]["ranks"] == 10  # of phase 0 both have scored one
    scopes = [members.scope_of([Run(path) for path in paths], None) for paths in ([full], [full, other])]
    figures = [presentations.draw(["full"], [[Run(full)]], scope) for scope in scopes]
    drawn = [
        [line.get_ydata().tolist() for line in figure.axes[1].lines if line.get_zorder() == presentations.Z_CURVE]
        for figure in figures
    ]
    assert drawn[0] == drawn[1] != []


def test_nothing_is_learned_where_the_ceiling_is_no_better_than_chance(run_dir, capsys):
    for phase, ceiling in ((0, 0.45), (1, 0.5)):
        table = np.load(run_dir / f"theory/phase_{phase}.npy")
        table[:10, 1] = ceiling
        np.save(run_dir / f"theory/phase_{phase}.npy", table)
    rows = result_of(capsys, run_dir)["bins"]
    assert [rows[0]["presentations"], rows[1]["presentations"], rows[1]["speedup"]] == [None] * 3
    assert rows[2]["seen"] is not None
    assert compare.main([str(run_dir), "--table", "bins", "--replicates", "10"]) == 0
    line = next(line for line in capsys.readouterr().out.split("\n") if line.startswith("0-9"))
    assert line.split()[-2:] == ["-", "-"]


def test_cells_have_signs_and_no_halves_of_numbers():
    inf, nan = float("inf"), float("nan")
    assert [comparison_text._number(value, 1) for value in (inf, -inf, nan, None, -2.0)] == [
        "inf",
        "-inf",
        "-",
        "-",
        "-2.0",
    ]
    limits = {"speedup_low": nan, "speedup_high": nan}
    for speedup, bound, text in (
        (inf, inf, "-"), (inf, 2.5, "> 2.50x"), (0.0, nan, "-"), (0.0, 0.0, "-"), (0.0, 0.5, "< 0.50x"),
        (nan, nan, "-"), (3.0, 3.0, "3.00x"),
    ):  # fmt: skip
        assert comparison_text._speedup_text({"speedup": speedup, "speedup_bound": bound, **limits}) == text
    row = {"presentations_low": nan, "presentations_high": nan, "seen": 9.0}
    for after, reached, text in ((200.0, 400.0, "200 to 400"), (0.0, 0.0, "0.0"), (9.0, inf, "> 9"), (nan, nan, "-")):
        cell = comparison_text._presentations_text({**row, "presentations_after": after, "presentations": reached})
        assert cell == text


def test_evaluations_too_far_apart_are_said(make_run, capsys):
    def row(run, after, reached, phase=0):
        return {"run": run, "first_rank": 0, "last_rank": 9, "phase": phase, "presentations_after": after,
                "presentations": reached}  # fmt: skip

    rows = [row("a", 10.0, 20.0), row("b", 15.0, 30.0), row("c", 20.0, 40.0), row("d", 40.0, float("inf"))]
    said = comparison.too_coarse([*rows, row("a", 0.0, 12.0, 1)])
    assert [note.split(": ")[0] for note in said] == ["a and b", "b and c"]
    assert said[0].endswith("ranks 0-9 of phase 0; a smaller eval.every can")
    often, rarely = make_run("often", evaluations=100), reseed(make_run("rarely"), 0, eval__every=500, model__heads=8)
    notes = result_of(capsys, often, rarely)["notes"]
    assert any(note.startswith("eval.every differs (100, 500)") for note in notes)
    assert any(note.startswith("often and rarely: evaluations are too far apart") for note in notes)


def test_a_run_with_train_alone_and_without_theory_is_compared(run_dir, tmp_path, capsys):
    for name in ("phase_0", "phase_1"):
        (run_dir / "eval" / name).rename(tmp_path / name)
    (run_dir / "theory").rename(tmp_path / "theory")
    rows = result_of(capsys, run_dir, "--threshold", "0.8")["bins"]
    assert rows[0]["accuracy_end"] is None
    assert rows[0]["ceiling"] is None
    assert rows[0]["presentations"] is not None
    result = result_of(capsys, run_dir)  # no ceiling, no relative threshold
    assert result["bins"][0]["presentations"] is None
    assert any("no Bayes ceiling is known" in note for note in result["notes"])


@pytest.mark.parametrize("options", [{"switches": ()}, {"until": 0}, {"until": 1000}, {"switches": (500, 1000, 1500)}])
@pytest.mark.filterwarnings("error")
def test_runs_of_every_kind(make_run, tmp_path, options):
    run_dir = make_run(num_sequences=40, **options)
    figure = tmp_path / "x.png"
    assert compare.main([str(run_dir), str(make_run("b")), "--replicates", "20", "--figure", str(figure)]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")


# Distance -------------------------------------------------------------------------------------------------------------


def test_against_ranks_runs_by_distance(make_run, capsys):
    target = reseed(make_run("target"), 0)
    reseed(make_run("sweep/far"), 9, model__heads=8)
    reseed(make_run("sweep/near"), 1, model__heads=2)
    result = result_of(capsys, target, "--against", target.parent / "sweep")
    assert [(row["run"], row["model.heads"]) for row in result["ranking"]] == [("near", 2), ("far", 8)]
    assert [row["distance"] for row in result["ranking"]] == pytest.approx([0.004, 0.036], abs=1e-4)
    assert result["ranking"][0]["curves"] == 6
    both = result_of(capsys, target, target.parent / "sweep/near")["distances"]
    assert [row["distance"] for row in both] == pytest.approx([0.004] * 6, abs=1e-4)


def test_against_leaves_the_run_itself_out_and_wants_one_run(make_run, capsys):
    target = reseed(make_run("group/a"), 0)
    assert compare.main([str(target), "--against", str(target.parent)]) == 64
    other = reseed(make_run("group/b"), 0, model__heads=8)
    assert [row["run"] for row in result_of(capsys, target, "--against", target.parent)["ranking"]] == ["b"]
    assert compare.main([str(target), str(other), "--against", str(target.parent)]) == 64
    (reseed(make_run("group/c"), 0, model__heads=1) / "eval").rename(target.parent / "elsewhere")
    result = result_of(capsys, target, "--against", target.parent)
    assert [row["run"] for row in result["ranking"]] == ["b"]
    assert any(note.startswith("left out: ") and "group/c" in note for note in result["notes"])


def test_runs_of_bits_and_of_whole_sequences_have_no_distance(make_run, capsys):
    target = reseed(make_run("target"), 0)
    bits = reseed(make_run("sweep/bits"), 1, model__heads=8)
    whole = reseed(make_run("sweep/whole"), 0, model__objective="retrieval", facts__task="sequences")
    result = result_of(capsys, target, "--against", target.parent / "sweep")
    assert [row["run"] for row in result["ranking"]] == ["bits"]
    assert any(note.startswith("left out: whole: one names whole sequences") for note in result["notes"])
    result = result_of(capsys, target, bits, whole)
    assert {(row["run"], row["other"]) for row in result["distances"]} == {("target", "bits")}
    assert sum(note.startswith("no distance of") for note in result["notes"]) == 2


# Output ---------------------------------------------------------------------------------------------------------------


def test_formats(run_dir, capsys):
    assert compare.main([str(run_dir), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 6
    assert float(rows[1]["speedup"]) > 1
    assert compare.main([str(run_dir), "--format", "md", "--table", "memory"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("- run")
    assert sum(line.startswith("|") for line in lines) == 4
    assert compare.main([str(run_dir)]) == 0
    text = capsys.readouterr().out
    assert "stored bits" in text
    assert max(map(len, text.splitlines()[3:10])) <= 160


def test_refusals_name_the_reason(run_dir, tmp_path):
    result = call(run_dir, "--threshold", "0.99")
    assert result.returncode == 64
    assert "above the Bayes ceiling 0." in result.stderr and "of ranks 0-9 of" in result.stderr
    for wrong in (
        ["--threshold", "1.2"],
        ["--bins", "3,1"],
        ["--table", "ranking"],
        ["--replicates", "0"],
        ["--format", "x"],
    ):
        assert call(run_dir, *wrong).returncode == 64, wrong
    for arguments in ([tmp_path / "absent"], [run_dir, "--against", tmp_path / "absent"]):
        result = call(*arguments)
        assert result.returncode == 74 and result.stderr == f"error: {tmp_path / 'absent'}: no such directory\n"
    (run_dir / "eval/phase_0/loss.npy").write_bytes(b"junk")
    assert call(run_dir).returncode == 65


def test_wrong_arguments_are_explained(run_dir, capsys):
    threshold = "a threshold is ceiling:SHARE or an accuracy, in (0, 1]"
    for option, value, said in (
        ("--threshold", "ceiling:-1", threshold),
        ("--threshold", "much", threshold),
        ("--bins", "5,3", "at least two rising ranks"),
    ):
        with pytest.raises(SystemExit):
            compare.main([str(run_dir), option, value])
        assert said in capsys.readouterr().err


def test_a_run_without_an_evaluation_says_so(make_run):
    run_dir = make_run()
    (run_dir / "eval").rename(run_dir / "elsewhere")
    result = call(run_dir)
    assert (result.returncode, result.stderr.count("\n")) == (65, 1)
    assert "nothing has been evaluated yet" in result.stderr


def test_a_run_without_an_evaluation_stops_no_others(make_run, tmp_path, capsys):
    make_run("all/a")
    young = set_state(make_run("all/b"), "running", 0)
    (young / "eval").rename(tmp_path / "elsewhere")
    result = result_of(capsys, tmp_path / "all", "--figure", tmp_path / "x.png")
    assert [member["name"] for member in result["members"]] == ["a"]
    assert result["notes"][-1] == "left out: b (running at step 0 of 2000): nothing has been evaluated yet"


# Figure ---------------------------------------------------------------------------------------------------------------


def figure_of(*paths):
    runs = [[mnemo_io.read_run(path)] for path in paths]
    scope = members.scope_of([Run(path) for path in paths], None)
    return presentations.draw([path.name for path in paths], runs, scope)


def test_figure_lays_one_model_over_the_other_with_the_ceiling(make_run):
    a, b = reseed(make_run("a"), 0), reseed(make_run("b" * 40), 5, model__heads=8)
    figure = figure_of(a, b)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["first sequences", "after switch 1"]
    drawn = [line for line in figure.axes[0].lines if line.get_zorder() == presentations.Z_CURVE]
    assert len(drawn) == 6
    assert {line.is_dashed() for line in drawn[:3]} == {False}
    assert {line.is_dashed() for line in drawn[3:]} == {True}
    ceilings = [line for line in figure.axes[0].lines if line.get_zorder() == presentations.Z_CEILING]
    assert ceilings[0].get_ydata()[0] == pytest.approx(np.load(a / "theory/phase_0.npy")[:10, 1].mean())
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["a", "..." + "b" * 21] and "Bayes ceiling" in words
    FigureCanvasAgg(figure).draw()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1
    assert figure.legends[0].get_window_extent().x0 >= figure.axes[-1].bbox.x1


@pytest.mark.parametrize("most", [1.05, 2, 4, 40, 1e3, 1e8])
def test_no_label_of_a_figure_is_printed_over_another(run_dir, most):
    for phase in (0, 1):
        file = run_dir / f"eval/phase_{phase}/presentations.npy"
        shape = np.load(file).shape
        np.save(file, np.geomspace(60, 60 * most, shape[0])[:, None].repeat(shape[1], 1).astype(np.int64))
    assert overprinted(figure_of(run_dir)) == []


def test_figure_names_bins_that_were_presented(run_dir):
    for phase in (0, 1):
        presentations = np.load(run_dir / f"eval/phase_{phase}/presentations.npy")
        presentations[:, 100:] = 0
        np.save(run_dir / f"eval/phase_{phase}/presentations.npy", presentations)
    words = [text.get_text() for text in figure_of(run_dir).legends[0].get_texts()]
    assert "ranks 10–99" in words and "ranks 100–199" not in words
    (run_dir / "theory").rename(run_dir / "elsewhere")
    assert "Bayes ceiling" not in [text.get_text() for text in figure_of(run_dir).legends[0].get_texts()]


def test_figure_has_a_line_for_each_chance(make_run):
    a, b = reseed(make_run("a"), 0), reseed(make_run("b"), 0, model__objective="retrieval", facts__task="sequences")
    for paths, chances in (((a,), [0.5]), ((b,), [1 / 200]), ((a, b), [1 / 200, 0.5])):
        lines = [line for line in figure_of(*paths).axes[0].lines if line.get_zorder() == 0.5]
        assert [line.get_ydata()[0] for line in lines] == pytest.approx(chances)


def test_a_name_that_is_no_text_is_drawn(make_run, tmp_path):
    name = os.fsdecode(b"\xd0")
    assert compare.main([str(make_run(name)), "--replicates", "10", "--figure", str(tmp_path / "a.png")]) == 0
    assert presentations.cut(name) == "\ufffd"


def test_equal_runs_give_equal_figures(run_dir, tmp_path):
    assert compare.main([str(run_dir), "--replicates", "10", "--figure", str(tmp_path / "a.png")]) == 0
    result = call(run_dir, "--replicates", "10", "--figure", tmp_path / "b.png", MPLBACKEND="module://not.there")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_too_many_members_for_a_figure(make_run, tmp_path):
    runs = [str(reseed(make_run(f"r{heads}"), 0, model__heads=heads)) for heads in range(1, 6)]
    with pytest.raises(ValueError, match="at most 4"):
        compare.main([*runs, "--replicates", "10", "--figure", str(tmp_path / "x.png")])
