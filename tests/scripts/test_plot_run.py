from __future__ import annotations

import csv
import os
import subprocess
import sys

import mnemo_io
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_run import (
    REPOSITORY,
    Curves,
    example_config,
    never_drawn,
    overprinted,
    write_further,
    write_set,
    write_settings,
)

from mnemo import curves
from mnemo.commands import plot
from mnemo.figures import positions, steps, style

SCRIPT = REPOSITORY / "scripts/plot_run.py"
JUPYTER = "module://matplotlib_inline.backend_inline"  # what a notebook leaves in MPLBACKEND


def call(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def figure_of(run_dir, name="train", **options):
    run = mnemo_io.read_run(run_dir)
    return steps.draw(run, name, curves.rank_bins(style.num_ranks(run, name)), **options)


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_command_writes_the_figure_beside_the_run(run_dir):
    result = call(run_dir)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{run_dir / 'figure.png'}\n"
    content = (run_dir / "figure.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1350, 900)
    assert b"Software" not in content
    assert b"tIME" not in content


def test_equal_runs_give_equal_bytes(run_dir, tmp_path):
    (tmp_path / "rc").mkdir()
    (tmp_path / "rc/matplotlibrc").write_text("font.size: 20\nlines.linewidth: 7\n")
    plot.main([str(run_dir), "-o", str(tmp_path / "a.png")])
    other = {"MPLBACKEND": JUPYTER, "MATPLOTLIBRC": str(tmp_path / "rc"), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    result = call(run_dir, "-o", tmp_path / "b.png", **other)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_help_and_exit_codes(run_dir, tmp_path):
    result = call("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: mnemo plot ")
    assert "mnemo plot cache/zipf/zipf --bins 0,1,10,100,1000" in result.stdout
    result = call(tmp_path / "absent")
    assert (result.returncode, result.stderr.count("\n")) == (74, 1)
    (run_dir / "eval/phase_0/loss.npy").write_bytes(b"junk")
    result = call(run_dir)
    assert (result.returncode, result.stderr.count("\n")) == (65, 1)
    assert "loss.npy" in result.stderr


@pytest.mark.parametrize("bins", ["0", "a,b", "10,0", "-1,5", "0,10,10", "500,600", ",".join(map(str, range(60)))])
def test_wrong_bins(run_dir, bins):
    try:
        code = plot.main([str(run_dir), f"--bins={bins}"])
    except SystemExit as stop:
        code = stop.code
    assert code == 64
    assert not (run_dir / "figure.png").exists()


def test_wrong_bins_are_explained(run_dir, capsys):
    wrong = {"5,3": "at least two rising ranks", "a,b": "must be ranks such as 0,10,100, got 'a,b'",
             ",".join(map(str, range(60))): "at most 20 bins can be told apart, got 59"}  # fmt: skip
    for bins, said in wrong.items():
        with pytest.raises(SystemExit):
            plot.main([str(run_dir), "--bins", bins])
        assert said in capsys.readouterr().err


def test_wrong_set_and_format(run_dir, capsys):
    assert plot.main([str(run_dir), "--set", "phase_7"]) == 64
    assert plot.main([str(run_dir), "-o", "figure.jpeg"]) == 64
    assert "it has: train, phase_0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [{"num_sequences": 1, "switches": ()}, {"until": -1}, {"until": 0}, {"until": 100}, {"until": 1000},
     {"switches": ()}, {"switches": (400, 900, 1500)}, {"switches": tuple(range(100, 2000, 100))}],
)  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.filterwarnings("error")
def test_runs_of_every_kind(make_run, tmp_path, options, log):
    run_dir = make_run(num_sequences=options.pop("num_sequences", 40), **options)
    assert plot.main([str(run_dir), "-o", str(tmp_path / "x.png"), *(["--log"] if log else [])]) == 0


def test_a_run_without_an_evaluation_says_so(make_run):
    run_dir = make_run()
    (run_dir / "eval").rename(run_dir / "elsewhere")
    assert mnemo_io.guarded(lambda: plot.main([str(run_dir)])) == 65


def test_a_run_without_theory_or_metrics_draws(make_run, tmp_path):
    run_dir = make_run()
    (run_dir / "theory").rename(tmp_path / "theory")
    (run_dir / "metrics.jsonl").unlink()
    assert labels(figure_of(run_dir))[-4:] == ["current sequences", "first sequences", "chance", "above the panel"]


def test_non_finite_losses_are_left_out(run_dir):
    loss = np.load(run_dir / "eval/train/loss.npy")
    loss[3], loss[4] = np.inf, np.nan
    np.save(run_dir / "eval/train/loss.npy", loss)
    low, high = figure_of(run_dir).axes[0].get_ylim()
    assert np.isfinite([low, high]).all()


def test_legend_names_what_is_drawn(make_run):
    switched, plain = make_run("a"), make_run("b", switches=())
    assert labels(figure_of(switched))[:3] == ["ranks 0–9", "ranks 10–99", "ranks 100–199"]
    assert "first sequences" in labels(figure_of(switched))
    assert "first sequences" not in labels(figure_of(plain))
    assert "first sequences" not in labels(figure_of(switched, "phase_0"))
    assert "Bayes limit" not in labels(figure_of(switched, "novel"))
    assert labels(figure_of(switched, "novel"))[:2] == ["ranks 0–9", "ranks 10–15"]


def test_legend_leaves_out_bins_of_which_nothing_is_drawn(make_run, tmp_path):
    run_dir = make_run()
    assert labels(figure_of(make_run("begun", until=-1)))[:2] == ["ranks 0–9", "ranks 10–99"]  # their limits
    (run_dir / "theory").rename(tmp_path / "theory")
    for name in ("loss", "accuracy"):
        values = np.load(run_dir / f"eval/phase_0/{name}.npy")
        values[:, :10] = np.nan
        np.save(run_dir / f"eval/phase_0/{name}.npy", values)
    assert labels(figure_of(run_dir, "phase_0"))[:2] == ["ranks 10–99", "ranks 100–199"]


@pytest.mark.parametrize("least", [0.68, 0.3, 1e-2, 1e-4, 1e-6, 1e-12, 1e-30])
def test_no_label_is_printed_over_another(run_dir, least):
    for name in ("loss", "accuracy"):
        file = run_dir / f"eval/phase_0/{name}.npy"
        shape = np.load(file).shape
        np.save(file, np.geomspace(0.7, least, shape[0])[:, None].repeat(shape[1], 1).astype(np.float32))
    (run_dir / "theory").rename(run_dir / "elsewhere")
    (run_dir / "metrics.jsonl").unlink()
    figure = figure_of(run_dir, "phase_0", log=True)
    assert overprinted(figure) == []
    labels_inside = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert sum(bool(text) for text in labels_inside) >= 2


def test_curves_are_bin_means_and_break_at_the_switch(run_dir):
    run = mnemo_io.read_run(run_dir)
    train = run["sets"]["train"]
    panel = figure_of(run_dir).axes[1]
    drawn = [line for line in panel.lines if line.get_linewidth() == style.SOLID["linewidth"]]
    assert len(drawn) == 2 * 3
    first_bin_before = drawn[2]
    assert first_bin_before.get_xdata().tolist() == train["step"][:11].tolist()
    assert first_bin_before.get_ydata() == pytest.approx(train["accuracy"][:11, 0])
    old = [line for line in panel.lines if line.get_alpha() == style.DASHED["alpha"]]
    assert old[0].get_xdata()[0] == 1000
    assert old[-1].get_ydata()[0] == pytest.approx(first_bin_before.get_ydata()[-1])


def test_limits_span_their_phase(run_dir):
    run = mnemo_io.read_run(run_dir)
    assert steps.phase_spans(run, "train", 2000) == [(0, 0, 1000), (1, 1000, 2000)]
    assert steps.phase_spans(run, "phase_1", 2000) == [(1, 1000, 2000)]
    assert steps.phase_spans(run, "swap.phase_0", 2000) == [(0, 0, 2000)]
    assert steps.phase_spans(run, "novel", 2000) == []


def test_each_swap_test_has_its_own_marker(run_dir):
    events = [f"swap_{index}" for index in range(3)]
    for event in events:
        write_set(run_dir / f"eval/{event}.phase_0", [(2000, 1, 0)], np.arange(200), Curves(200, 16, [1000]))
    figure = figure_of(run_dir)
    handles = zip(figure.legends[0].legend_handles, labels(figure))
    legend = {label.split(":")[0]: handle.get_marker() for handle, label in handles if label.startswith("swap")}
    drawn = {line.get_marker() for line in figure.axes[1].lines if line.get_linestyle() == "None"}
    assert list(legend) == events
    assert set(legend.values()) == drawn and len(drawn) == 3


@pytest.mark.parametrize(("task", "choices"), [("bits", 2), ("sequences", 200)])
def test_chance_is_a_guess_among_bits_or_among_sequences(run_dir, task, choices):
    write_settings(run_dir, example_config(200, 16, 2000, [1000]), task=task)
    drawn = [
        line.get_ydata()[0] for panel in figure_of(run_dir).axes for line in panel.lines if line.get_zorder() == 0.5
    ]
    assert drawn == pytest.approx([np.log(choices), 1 / choices])


def test_ranks_that_are_never_drawn_are_in_no_curve_and_no_limit(run_dir):
    run = curves.only_drawn(mnemo_io.read_run(never_drawn(run_dir, 150)))
    figure = steps.draw(run, "phase_0", [(100, 200)])
    dotted = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_zorder() == 2]
    assert dotted == pytest.approx([np.load(run_dir / "theory/phase_0.npy")[100:150, 0].mean()])
    assert figure.legends[0].get_title().get_text() == "phase_0, ranks that are drawn"
    assert len(run["sets"]["novel"]["rank"]) == 16


def test_first_bin_is_darkest():
    lightness = [np.dot(color[:3], (0.2126, 0.7152, 0.0722)) for color in style.bin_colors(6)]
    assert lightness == sorted(lightness)
    assert len(style.bin_colors(1)) == 1


def test_legend_and_titles_stay_inside_and_apart(run_dir):
    np.save(run_dir / "eval/train/rank.npy", np.arange(20) * 50_000)
    figure = steps.draw(mnemo_io.read_run(run_dir), "train", curves.rank_bins(10**6, [0, 10**5, 10**6]))
    assert labels(figure)[1] == "ranks 100000–999999"
    FigureCanvasAgg(figure).draw()
    page, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert legend.x1 <= page.x1
    assert legend.x0 >= figure.axes[0].bbox.x1
    texts = [text.get_window_extent() for text in figure.texts]
    assert all(box.x1 <= page.x1 and box.y1 <= page.y1 for box in texts)
    assert not texts[0].overlaps(texts[1])
    assert all(box.y0 >= legend.y1 for box in texts)


def test_settings_that_fill_a_line_go_on_in_a_second(run_dir):
    text = ", ".join(f"a_setting_{index} of {index}" for index in range(8))
    write_settings(run_dir, example_config(200, 16, 2000, [1000]), text=text)
    figure = figure_of(run_dir)
    first, second = figure.texts[1].get_text().replace("\u00a0", " ").split("\n")
    settings = mnemo_io.settings_line(mnemo_io.read_run(run_dir), " · ")
    assert f"{first} {second}" == settings and first.endswith(" ·")
    FigureCanvasAgg(figure).draw()
    name, box = (text.get_window_extent() for text in figure.texts)
    assert box.x1 <= figure.bbox.x1 and not name.overlaps(box)
    assert box.y0 >= figure.legends[0].get_window_extent().y1


def test_swap_tests_are_marked_where_their_sequences_are_drawn(run_dir, tmp_path):
    folder = run_dir / "eval/swap_mlp.phase_0"
    write_set(folder, [(2000, 1, 0)], np.arange(200), Curves(200, 16, [1000]))
    accuracy = np.load(folder / "accuracy.npy")
    for name in ("train", "phase_0"):
        figure = figure_of(run_dir, name)
        marked = [line for line in figure.axes[1].lines if line.get_marker() == steps.MARKERS[0]]
        assert [line.get_xdata().tolist() for line in marked] == [[2000]] * 3
        expected = accuracy[0, :10:10] if name == "train" else accuracy[0, :10]
        assert marked[-1].get_ydata()[0] == pytest.approx(expected.mean())
        assert sum(label.startswith("swap_mlp") for label in labels(figure)) == 1
    assert not any(label.startswith("swap") for label in labels(figure_of(run_dir, "phase_1")))
    assert plot.main([str(run_dir), "-o", str(tmp_path / "x.png"), "--set", "swap_mlp.phase_0"]) == 0


EVENTS = [
    {"kind": "freeze", "at": 1000, "every": None, "step": 1000, "params": ["c_attn", "mlp"], "name": "freeze"},
    {"kind": "load", "at": None, "every": 800, "first": 800, "last": 1600, "count": 2, "params": ["*"], "from": "x"},
    {"kind": "snapshot", "at": 500, "every": None, "step": 500, "name": "x"},
    {"kind": "unfreeze", "at": "end", "every": None, "step": 3000, "params": ["mlp"], "name": "unfreeze"},
]


def test_switches_freezes_and_loads_are_marked_and_named(run_dir):
    config = example_config(200, 16, 2000, [1000])
    write_settings(run_dir, {**config, "events": [*config["events"], *EVENTS]})
    figure = figure_of(run_dir)
    for panel in figure.axes:
        marks = [line for line in panel.lines if line.get_zorder() == style.MARK["zorder"]]
        assert [line.get_xdata()[0] for line in marks] == [1000, 800, 1600]
    assert [text.get_text() for text in figure.axes[0].texts] == ["switch, freeze c_attn, mlp", "load"]
    assert overprinted(figure) == []


def test_labels_of_changes_that_would_touch_are_left_out(run_dir):
    config = example_config(200, 16, 2000, [1000])
    events = [{**EVENTS[0], "step": step} for step in range(1100, 2000, 100)]
    write_settings(run_dir, {**config, "events": [*config["events"], *events]})
    figure = figure_of(run_dir)
    assert 1 < len(figure.axes[0].texts) < 6
    assert overprinted(figure) == []


def test_a_curve_above_its_panel_is_marked_where_it_leaves(run_dir):
    loss = np.load(run_dir / "eval/phase_0/loss.npy")
    train = np.load(run_dir / "eval/train/loss.npy")
    step = np.load(run_dir / "eval/phase_0/step.npy")
    loss[step < 1000] = train[0, 0]
    loss[step >= 1000] = 0.1
    loss[step == 1300] = 40.0
    loss[step == 1400], loss[step == 1500] = 50.0, 0.2
    loss[step == 1900] = 60.0
    np.save(run_dir / "eval/phase_0/loss.npy", loss)
    figure = figure_of(run_dir)
    panel = figure.axes[0]
    marks = [line for line in panel.lines if line.get_marker() == "^"]
    assert [line.get_xdata().tolist() for line in marks] == [[1300], [1900]] * 3
    assert {line.get_ydata()[0] for line in marks} == {panel.get_ylim()[1]}
    assert labels(figure)[-1] == "above the panel"
    assert not [line for line in figure_of(run_dir, log=True).axes[0].lines if line.get_marker() == "^"]


def read_csv(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_plotted_lies_beside_the_figure(run_dir, tmp_path):
    write_set(run_dir / "eval/swap_mlp.phase_0", [(2000, 1, 0)], np.arange(200), Curves(200, 16, [1000]))
    assert plot.main([str(run_dir), "-o", str(tmp_path / "x.png")]) == 0
    rows = read_csv(tmp_path / "x.csv")
    run = curves.only_drawn(mnemo_io.read_run(run_dir))
    run = run.replace(sets={**run.sets, "current": curves.current_sequences(run.sets)})
    figure = steps.draw(run, "current", curves.rank_bins(200))
    for name, look in (("current", {"alpha": None, "marker": "None"}), ("first sequences", style.DASHED)):
        lines = [line for line in figure.axes[1].lines if line.get_zorder() == steps.Z_CURVE
                 and line.get_alpha() == look.get("alpha") and line.get_linestyle() != "None"]  # fmt: skip
        drawn = sorted((x, y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata()))
        told = sorted((float(row["step"]), float(row["accuracy"])) for row in rows if row["curve"] == name)
        assert told == drawn and told
    assert {row["step"] for row in rows if row["curve"] == "swap_mlp"} == {"2000"}
    floors = {float(row["floor"]) for row in rows if row["curve"] == "current" and row["first_rank"] == "0"}
    dotted = [line for line in figure.axes[0].lines if line.get_zorder() == 2]
    assert floors == {line.get_ydata()[0] for line in dotted if line.get_color() == dotted[0].get_color()}
    assert {row["floor"] for row in rows if row["curve"] != "current"} == {""}


def test_what_is_plotted_by_position_lies_beside_the_figure(run_dir, tmp_path):
    write_further(run_dir)
    assert plot.main([str(run_dir), "--by-position", "--set", "phase_0", "-o", str(tmp_path / "x.png")]) == 0
    figure = positions.draw(mnemo_io.read_run(run_dir), "phase_0")
    drawn = sorted(y for line in figure.axes[1].lines if line.get_zorder() == 3 for y in line.get_ydata())
    assert sorted(float(row["accuracy"]) for row in read_csv(tmp_path / "x.csv")) == pytest.approx(drawn)


# By position ----------------------------------------------------------------------------------------------------------


def test_by_position_draws_what_the_files_say_beside_the_bayes_predictor(run_dir):
    run = mnemo_io.read_run(write_further(run_dir))
    figure = positions.draw(run, "phase_0")
    found, panel = run["by_position"]["phase_0"], figure.axes[1]
    solid, dashed = (
        [line for line in panel.lines if line.get_zorder() == 3 and line.get_linewidth() == style["linewidth"]]
        for style in (style.SOLID, style.DASHED)
    )
    before = curves.rows_before(found["step"], 1000).stop - 1
    assert [len(solid), len(dashed)] == [3, 3]
    assert solid[-1].get_xdata().tolist() == list(range(1, 16))
    assert solid[-1].get_ydata() == pytest.approx(found["accuracy"][before, 0])
    assert dashed[-1].get_ydata() == pytest.approx(found["accuracy"][-1, 0])
    bayes = [line for line in panel.lines if line.get_zorder() == 2]
    assert bayes[-1].get_ydata() == pytest.approx(np.load(run_dir / "theory/by_position_0.npy")[0, :, 1])
    assert labels(figure)[:3] == ["ranks 0–9", "ranks 10–99", "ranks 100–199"]
    assert labels(figure)[4:] == ["step 1,000", "step 2,000", "Bayes limit, all ranks", "chance"]
    assert overprinted(figure) == []


def test_by_position_of_the_last_phase_is_drawn_once(run_dir):
    run = mnemo_io.read_run(write_further(run_dir))
    assert positions.default_set(run) == "phase_1"
    assert list(positions.rows_of(run, "phase_1")) == [10]
    assert list(positions.rows_of(run, "novel")) == [21]
    assert "step 2,000" in labels(positions.draw(run, "phase_1"))


def test_by_position_by_command(run_dir, tmp_path, capsys):
    assert mnemo_io.guarded(lambda: plot.main([str(run_dir), "--by-position"])) == 65
    assert "train with eval.by_position=true" in capsys.readouterr().err
    write_further(run_dir)
    assert plot.main([str(run_dir), "--by-position", "--log"]) == 0
    result = call(run_dir, "--by-position", "--log", "-o", tmp_path / "b.png", MPLBACKEND=JUPYTER, LC_ALL="C")
    assert result.returncode == 0, result.stderr
    assert (run_dir / "by_position.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    for wrong in (["--bins", "0,5"], ["--set", "phase_7"]):
        assert plot.main([str(run_dir), "--by-position", *wrong]) == 64
    for name in ("train", "novel", "phase_0"):
        assert plot.main([str(run_dir), "--by-position", "--set", name, "-o", str(tmp_path / "x.png")]) == 0


def test_by_position_without_theory(run_dir):
    write_further(run_dir)
    for file in (run_dir / "theory").glob("by_position_*.npy"):
        file.unlink()
    figure = positions.draw(mnemo_io.read_run(run_dir), "phase_0")
    assert "Bayes limit, all ranks" not in labels(figure)
    assert not [line for line in figure.axes[1].lines if line.get_zorder() == 2]
