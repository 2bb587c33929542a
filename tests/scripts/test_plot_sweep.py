from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import time

import mnemo_io
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_run import REPOSITORY, example_config, overprinted, write_settings

from mnemo import sweeps
from mnemo.commands import plot
from mnemo.figures import style, sweep

NUM_SEQUENCES = 40
FLOOR, CEILING = 0.2 + 0.4 * np.arange(40) / 39, 0.9 - 0.3 * np.arange(40) / 39
RANKS = np.arange(0, 40, 4)


def write_member(path, loss, accuracy, state="done", names=("train",), **settings):
    """A run directory with two evaluations, the last of mean `loss` and `accuracy`; waiting: its config.yaml alone."""
    path.mkdir(parents=True)
    config = example_config(NUM_SEQUENCES, 16, 2000, [])
    for block in (config["train"], config["model"], config):
        block.update({key: value for key, value in settings.items() if key in block})
    if state == "waiting":
        (path / "config.yaml").write_text(json.dumps(config))
        return
    write_settings(path, config)
    (path / "status.json").write_text(json.dumps({"state": state, "step": 2000, "steps": 2000, "loss": 0.1}))
    for name in names:
        folder = path / "eval" / name
        folder.mkdir(parents=True)
        wobble = np.linspace(-0.1, 0.1, len(RANKS))
        columns = {"loss": np.stack([0.7 + 0 * wobble, loss + wobble]).astype(np.float32),
                   "accuracy": np.stack([0.5 + 0 * wobble, accuracy - wobble]).astype(np.float32),
                   "presentations": np.zeros((2, len(RANKS)), np.int64), "step": np.array([0, 2000]),
                   "last_seen": np.zeros((2, len(RANKS)), np.int64), "phase": np.zeros(2, np.int64),
                   "moment": np.zeros(2, np.uint8), "rank": RANKS}  # fmt: skip
        for key, array in columns.items():
            np.save(folder / f"{key}.npy", array)
    (path / "theory").mkdir()
    np.save(path / "theory/phase_0.npy", np.stack([FLOOR, CEILING], axis=1))


@pytest.fixture
def make_sweep(tmp_path):
    """A function that writes a sweep: make_sweep({key: values, ...}, result) with result(values) -> loss[, state]."""

    def make(axes, result=lambda values: 0.5, name="grid", **options):
        return write_sweep(tmp_path / name, [dict(zip(axes, point)) for point in itertools.product(*axes.values())],
                           result, **options)  # fmt: skip

    return make


def write_sweep(folder, points, result=lambda values: 0.5, **options):
    lines = []
    for values in points:
        found = result(values)
        loss, state = found if isinstance(found, tuple) else (found, "done")
        name = ",".join(f"{key}={value}" for key, value in sorted(values.items())).replace("/", "_")
        settings = {key.rsplit(".", 1)[-1]: value for key, value in values.items()}
        write_member(folder / name, loss, max(0.5, 1 - loss / 1.5), state, **{**options, **settings})
        lines.append(json.dumps({"run": name, "id": "0" * 32, "values": {key: str(v) for key, v in values.items()}}))
    (folder / ".sweep").mkdir()
    (folder / ".sweep/manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


LR = ["1e-4", "3e-4", "0.001", "0.003", "0.01", "0.03", "0.1"]


def bowl(values):
    """Best at train.lr 0.003 and many heads; seeds of the largest rate diverge, or end far above chance."""
    lr, seed = float(values["train.lr"]), values.get("seed", 0)
    if lr > 0.05:
        return (1.0, "diverged") if seed < 2 else (3.0, "done")
    if lr < 2e-4 and seed == 2:
        return 1.0, "waiting"
    return 0.35 + 0.06 * (np.log10(lr) + 2.6) ** 2 + 0.02 * seed - 0.001 * values.get("model.heads", 0)


def call(*arguments):
    command = [sys.executable, str(REPOSITORY / "scripts/plot_run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def figure_of(folder, *options):
    """The figure that a command line asks for, drawn."""
    arguments = plot._parser().parse_args([str(folder), *options])
    with style.matplotlib_style():
        figure, _ = sweep.choose(folder, arguments)()
        FigureCanvasAgg(figure).draw()
    return figure


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def subtitle(figure):
    return figure.texts[1].get_text().replace(style.NO_BREAK, " ")


def texts(panel):
    return [text.get_text() for text in panel.texts if text.get_text()]


def ticks(panel, axis="x"):
    return [label.get_text() for label in getattr(panel, f"get_{axis}ticklabels")()]


def lines_with(panel, **style):
    return [line for line in panel.lines if all(getattr(line, f"get_{key}")() == value for key, value in style.items())]


def test_command_writes_the_figure_into_the_folder_of_the_sweep(make_sweep, tmp_path):
    folder = make_sweep({"train.lr": LR, "seed": [0, 1, 2]}, bowl)
    result = call(folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{folder / 'figure.png'}\n"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert call(folder, "-o", tmp_path / "again.png").returncode == 0
    assert (tmp_path / "again.png").read_bytes() == (folder / "figure.png").read_bytes()
    with (folder / "figure.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(LR)
    finished = [row for row in rows if row["state"] == "done"]
    assert [row["accuracy"] for row in rows if row not in finished] == [""] * (len(rows) - len(finished))
    for row in finished:
        run = mnemo_io.read_run(folder / row["run"])
        assert float(row["accuracy"]) == pytest.approx(run["sets"]["train"]["accuracy"][-1].mean())
        assert (float(row["train.lr"]), int(row["seed"])) == (float(run.config["train"]["lr"]), run.config["seed"])


def test_one_setting_dots_means_limits_and_best(make_sweep):
    figure = figure_of(make_sweep({"train.lr": LR, "seed": [0, 1, 2]}, bowl))
    loss, accuracy = figure.axes
    assert loss.get_xscale() == "log"
    assert ticks(accuracy) == LR
    assert accuracy.get_xlabel() == "train.lr"
    assert sum(len(line.get_xdata()) for line in lines_with(accuracy, marker="o")) == 18  # finished
    (mean,) = lines_with(loss, linewidth=sweep.MEAN["linewidth"], linestyle="-")
    expected = [np.mean([bowl({"train.lr": lr, "seed": seed}) for seed in range(3)]) for lr in LR[1:6]]
    np.testing.assert_allclose(mean.get_ydata()[1:6], expected, rtol=1e-6)
    np.testing.assert_allclose(mean.get_ydata()[0], bowl({"train.lr": LR[0], "seed": 0}) + 0.01, rtol=1e-6)  # 2 of 3
    assert np.isnan(mean.get_ydata()[6])  # off the scale
    for panel, limit in ((loss, FLOOR), (accuracy, CEILING)):
        dotted = [line for line in panel.lines if line.is_dashed() and len(line.get_xdata()) == len(LR) + 2]
        np.testing.assert_allclose(dotted[0].get_ydata(), limit[RANKS].mean(), rtol=1e-12)  # unweighted, scored ranks
        assert [line.get_xdata()[0] for line in lines_with(panel, color=sweep.BEST["color"])] == [0.003]
    assert f"best loss {np.mean(expected[2]):.4f}\nlr = 0.003" in labels(figure)
    assert "Bayes limit,\nunweighted mean\nover the same ranks" in labels(figure)
    assert subtitle(figure).startswith("18 of 21 runs done, 2 diverged, 1 waiting · mean over seed · one_layer")


def test_diverged_runs_and_losses_off_the_scale_are_marked_at_the_edge(make_sweep):
    folder = make_sweep({"train.lr": LR, "seed": [0, 1, 2]}, bowl)
    figure = figure_of(folder)
    loss, accuracy = figure.axes
    (cross,), (above,) = lines_with(loss, marker="x"), lines_with(loss, marker="^")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (0.1, 1.0)
    assert above.get_xdata()[0] == 0.1
    assert "2 of 3" in texts(loss)
    assert not lines_with(accuracy, marker="x")
    assert loss.get_ylim()[1] < 1  # 3.0 does not flatten the rest
    assert {"diverged", "loss off the scale"} <= set(labels(figure))
    figure = figure_of(folder, "--log")
    assert figure.axes[0].get_ylim()[1] > 3
    assert "loss off the scale" not in labels(figure)


def test_numbers_within_a_decade_are_linear_and_words_are_categories(make_sweep):
    figure = figure_of(make_sweep({"train.steps": [300, 100, 900]}, name="linear"))
    assert figure.axes[1].get_xscale() == "linear"
    assert ticks(figure.axes[1]) == ["100", "300", "900"]  # rising
    folder = make_sweep({"model.kind": ["dam", "gpt", "lstm"], "seed": [0, 1]}, name="words")
    figure = figure_of(folder)
    assert ticks(figure.axes[1]) == ["dam", "gpt", "lstm"]
    assert not [line for line in lines_with(figure.axes[0], linewidth=1.7) if line.get_linestyle() == "-"]  # no curve


def test_seeds_alone_are_points(make_sweep):
    figure = figure_of(make_sweep({"seed": [0, 1, 2, 3]}, lambda values: 0.3 + 0.01 * values["seed"]))
    assert figure.axes[1].get_xlabel() == "seed"
    assert sum(len(line.get_xdata()) for line in lines_with(figure.axes[0], marker="o")) == 4
    assert "mean" not in labels(figure)


def test_a_zip_is_one_axis(tmp_path):
    pairs = [(1, 0.01), (5, 0.1), (10, 0.01), (30, 0.01), (100, 0.1)]
    points = [{"model.heads": heads, "model.init_std": std, "seed": seed} for heads, std in pairs for seed in (0, 1)]
    figure = figure_of(write_sweep(tmp_path / "zip", points, lambda values: 0.6 - 0.001 * values["model.heads"]))
    assert ticks(figure.axes[1])[1] == "heads = 5\ninit_std = 0.1"
    assert labels(figure)[-1].split("\n")[1:] == ["heads = 100", "init_std = 0.1"]
    axes = sweeps.axes_of(sweeps.read_states(tmp_path / "zip"), ["seed"])
    assert [axis.keys for axis in axes] == [("model.heads", "model.init_std")]


def test_a_grid_has_an_axis_for_each_setting(make_sweep):
    folder = make_sweep({"train.lr": LR[:2], "model.heads": [2, 1], "seed": [0], "train.steps": [100, 200]})
    axes = sweeps.axes_of(sweeps.read_states(folder))
    assert [axis.keys for axis in axes] == [("train.lr",), ("model.heads",), ("train.steps",)]
    assert axes[1].values == (("1",), ("2",))


def test_two_settings_are_heat_maps(make_sweep):
    folder = make_sweep({"train.lr": LR, "model.heads": [1, 2, 4], "seed": [0, 1, 2]}, bowl)
    figure = figure_of(folder)
    loss, accuracy = figure.axes[:2]
    values = loss.images[0].get_array()
    assert values.shape == (3, 7)
    expected = np.mean([bowl({"train.lr": "0.003", "model.heads": 2, "seed": seed}) for seed in range(3)])
    np.testing.assert_allclose(values[1, 3], expected, rtol=1e-6)
    assert (ticks(loss), ticks(loss, "y"), loss.get_ylabel()) == (LR, ["1", "2", "4"], "model.heads")
    assert [patch.get_xy() for patch in loss.patches] == [(2.5, 1.5)]  # lr 0.003, 4 heads
    assert [patch.get_xy() for patch in accuracy.patches] == [(2.5, 1.5)]
    assert texts(loss).count("2 of 3") == 3
    assert texts(loss).count("1 of 3") == 3
    assert f"{expected:.3f}" in texts(loss)
    assert loss.images[0].norm.vmax < 1  # 3.0 does not take all colours
    assert f"Bayes limit {FLOOR[RANKS].mean():.3f}" in loss.get_title(loc="left")
    assert f"loss {expected - 0.002:.4f} at lr = 0.003, heads = 4" in figure.texts[-1].get_text()


def test_cells_where_all_diverged_are_crossed_and_large_maps_hold_no_numbers(make_sweep):
    def result(values):
        return (0.5, "diverged" if values["model.heads"] == 3 else "waiting" if values["model.heads"] == 4 else "done")

    axes = {"train.steps": list(range(100, 1200, 100)), "model.heads": [1, 2, 3, 4]}
    loss = figure_of(make_sweep(axes, result)).axes[0]
    assert sorted(line.get_ydata()[0] for line in loss.lines) == [2] * 11
    assert not texts(loss)


def test_further_settings_are_at_their_best_or_lines(make_sweep):
    axes = {"train.lr": LR[1:5], "model.heads": [1, 20, 3], "train.steps": [100, 200]}
    folder = make_sweep(axes, lambda values: bowl(values) + 1e-4 * values["train.steps"])
    figure = figure_of(folder)
    best = bowl({"train.lr": "0.003", "model.heads": 20}) + 0.01
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[2, 2], best, rtol=1e-6)
    assert "each cell at its best train.steps" in subtitle(figure)
    assert figure.axes[0].images[0].get_array().shape == (3, 4)
    assert figure_of(folder, "--x", "train.steps", "--y", "train.lr").axes[0].images[0].get_array().shape == (4, 2)
    figure = figure_of(folder, "--x", "train.lr")
    assert labels(figure)[:6] == [f"heads = {heads}\nsteps = {steps}" for heads in (1, 3, 20) for steps in (100, 200)]
    figure = figure_of(folder, "--x", "train.lr", "--over", "model.heads,train.steps")
    assert labels(figure)[:2] == ["a run", "mean"]
    assert "mean over model.heads, train.steps" in subtitle(figure)


def test_usage_errors_name_what_is_there(make_sweep, run_dir, capsys):
    folder = make_sweep({"train.lr": LR[:5], "model.heads": [1, 2, 3, 4, 5], "train.steps": [1, 2, 3]})
    wrong = {("--x", "train.eps"): "train.eps does not vary in",
             ("--x", "seed"): "seed does not vary in",
             ("--over", "data.seed"): "train.lr, model.heads, train.steps does",
             ("--x", "train.lr", "--y", "train.lr"): "beside train.lr no other setting",
             ("--x", "train.lr"): "at most 12 lines can be told apart, got 15; give --y KEY, too",
             ("--set", "novel"): "has no set 'novel'; it has: train",
             ("--bins", "0,10"): "--bins and --by-position are for one run"}  # fmt: skip
    for options, said in wrong.items():
        assert plot.main([str(folder), *options]) == 64, options
        assert said in capsys.readouterr().err
    assert plot.main([str(run_dir), "--x", "train.lr"]) == 64
    assert "are for the folder of a sweep" in capsys.readouterr().err
    assert plot.main([str(make_sweep({"train.lr": LR[:1]}, name="one"))]) == 64
    assert "is a sweep of one run; plot that" in capsys.readouterr().err
    assert not (folder / "figure.png").exists()


def test_nothing_done_yet_is_data_that_is_missing(make_sweep):
    result = call(make_sweep({"train.lr": LR[:2]}, lambda values: (0.5, "waiting")))
    assert (result.returncode, result.stderr.count("\n")) == (65, 1)
    assert "no run is finished yet: 0 of 2 runs done, 2 waiting" in result.stderr


def test_a_broken_run_is_named_and_a_broken_line_left_out(make_sweep, capsys):
    folder = make_sweep({"train.lr": LR[:3]})
    manifest = folder / ".sweep/manifest.jsonl"
    lines = ['{"run": "../elsewhere", "values": {}}', "no json", '{"run": "x", "values": {"seed": 1}}', "[]"]
    manifest.write_text(manifest.read_text() + "\n".join(lines) + "\n")
    assert list(sweeps.read_manifest(folder)) == [f"train.lr={lr}" for lr in LR[:3]]
    assert [line.split(":")[2] for line in capsys.readouterr().err.splitlines()] == ["4", "5", "6", "7"]
    (folder / "train.lr=3e-4/eval/train/loss.npy").write_bytes(b"junk")
    assert mnemo_io.guarded(lambda: plot.main([str(folder)])) == 65
    assert "train.lr=3e-4/eval/train/loss.npy" in capsys.readouterr().err


def test_a_directory_deleted_by_hand_is_counted(make_sweep):
    folder = make_sweep({"train.lr": LR[:3]})
    (folder / "train.lr=3e-4").rename(folder.parent / "elsewhere")
    assert subtitle(figure_of(folder)).startswith("2 of 3 runs done, 1 missing · ")


def test_sets_other_than_train(make_sweep):
    folder = make_sweep({"train.lr": LR[:3]}, names=("phase_0", "novel"))
    assert figure_of(folder).legends[0].get_title().get_text().startswith("phase_0, ")
    figure = figure_of(folder, "--set", "novel")
    assert not [label for label in labels(figure) if label.startswith("Bayes")]  # theory says nothing of them


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_losses_that_are_not_finite_are_off_the_scale(make_sweep, log, value):
    for name, axes in {"a": {"train.lr": LR[:3]}, "b": {"train.lr": LR[:3], "model.heads": [1, 2]}}.items():
        folder = make_sweep(axes, lambda values: value if values["train.lr"] == "3e-4" else 0.5, name=name)
        figure = figure_of(folder, *(["--log"] if log else []))
        assert np.isfinite(figure.axes[0].get_ylim()).all()


@pytest.mark.parametrize("count", [3, 10, 30])
@pytest.mark.parametrize("options", [[], ["--x", "model.attention_init"]])
def test_no_label_lies_on_another(make_sweep, count, options):
    words = [f"rather_long_name_of_a_choice_{index}" for index in range(count)]
    figure = figure_of(make_sweep({"model.attention_init": words, "train.lr": LR}), *options)
    assert overprinted(figure) == []


def test_a_thousand_runs_take_seconds(make_sweep):
    folder = make_sweep({"train.steps": list(range(100, 140)), "model.heads": list(range(25))})
    start = time.process_time()  # of this process alone: the machine may be busy
    assert plot.main([str(folder)]) == 0
    assert time.process_time() - start < 5
