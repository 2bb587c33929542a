"""Figures of many runs: what is read, kept, drawn and refused."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import notebook_record
import numpy as np
import pytest
from synthetic_run import example_config, write_run, write_settings

from mnemo import analysis, command, curves, kept, runs
from mnemo.commands import analysis as main_module
from mnemo.commands import plot
from mnemo.figures import experiments, style

QUIET = ["--no-show-plots", "--no-save-plots"]
SETTINGS = main_module.read_settings()
WANTED = analysis.Wanted(((0, 10), (30, 40), (60, 70)), tuple(SETTINGS.RANK_RANGES), 1000)
LOOK = experiments.Look((6.0, 4.0), 8.0, 1.0, True, (1e1, 1e5), (0.009, 1.0), (0.5, 1.0))
SELECTED = SETTINGS.RANK_SELECTIONS["selected"]


def write(path: Path, heads: int = 4, seed: int = 0, **options) -> Path:
    """A run of 80 sequences without a switch; its curves differ by heads and seed."""
    options = {"num_sequences": 80, "steps": 800, "switches": (), "evaluations": 8, **options}
    write_run(path, **options)
    config = example_config(options["num_sequences"], 16, options["steps"], list(options["switches"]))
    config.update(seed=seed, group="zipf_small", run=path.name)
    config["model"]["heads"] = heads
    write_settings(path, config)
    for file in path.glob("eval/*/loss.npy"):
        np.save(file, (np.load(file) * (1 + 0.1 * heads + 0.02 * seed)).astype(np.float32))
    return path


def found_of(paths, folder: Path, wanted=WANTED) -> list[analysis.Model]:
    opened = [analysis.open_source(path, folder) for path in paths]
    return analysis.models({run: analysis.processed(run, wanted, folder) for run in opened})


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def call(*arguments, capsys) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the lines on stderr."""
    capsys.readouterr()
    try:
        code = main_module.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with a cache of four runs, of two models with two seeds each, and the figures of all of them."""
    root = tmp_path_factory.mktemp("project")
    for heads in (2, 4):
        for seed in (0, 1):
            write(root / f"cache/zipf_small/heads={heads},seed={seed}", heads, seed)
    deep = root / "some/where"
    deep.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(deep)
    try:
        assert main_module.main(["--experiment", "small", "--comparative", "--no-show-plots", "--dpi", "20"]) == 0
    finally:
        os.chdir(before)
    return root


# What is drawn --------------------------------------------------------------------------------------------------------


def test_figures_have_the_names_that_users_know_each_with_its_table(project):
    figures = project / "cache/zipf_figs"
    names = {str(path.relative_to(figures).with_suffix("")) for path in figures.rglob("*.png")}
    expected = {f"small_{end}" for end in (
        "logsoftmaxloss_vs_presentations_line", "logsoftmaxloss_vs_presentations_scatter", "accuracy_vs_presentations",
        "logsoftmaxloss_vs_presentations_rank_ranges", "accuracy_vs_presentations_rank_ranges")}  # fmt: skip
    expected |= {f"comparative_visualizations/{metric}_vs_presentations_{end}"
                 for metric in ("logsoftmaxloss", "accuracy")
                 for end in ("line_0-5", "line_5-10", "line_10-100", "by_heads")}  # fmt: skip
    assert names == expected
    assert names == {str(path.relative_to(figures).with_suffix("")) for path in figures.rglob("*.csv")}
    content = (figures / "small_accuracy_vs_presentations.png").read_bytes()
    assert tuple(int.from_bytes(content[at : at + 4], "big") for at in (16, 20)) == (240, 160)
    assert b"zipf_small/heads=2,seed=0" in content


def test_a_table_holds_the_means_over_true_ranks_and_seeds(project):
    figures = project / "cache/zipf_figs"
    for name, key, column in (("logsoftmaxloss_vs_presentations_line", "loss", 0), ("accuracy_vs_presentations",
                                                                                  "accuracy", 1)):  # fmt: skip
        rows = [row for row in table_of(figures / f"small_{name}.csv")
                if row["model"] == "heads 2" and row["first_rank"] == "30"]  # fmt: skip
        sets = [project / f"cache/zipf_small/heads=2,seed={seed}/eval/phase_0" for seed in (0, 1)]
        ranks = slice(30, 40)
        values = np.stack([np.load(folder / f"{key}.npy")[1:, ranks].mean(axis=1, dtype=float) for folder in sets])
        x = np.load(sets[0] / "presentations.npy")[1:, ranks].mean(axis=1)
        assert [int(row["step"]) for row in rows] == np.load(sets[0] / "step.npy")[1:].tolist()
        np.testing.assert_array_equal([float(row["presentations"]) for row in rows], x)
        np.testing.assert_allclose([float(row[key]) for row in rows], values.mean(axis=0), rtol=1e-12)
        reach = 12.706 * np.abs(values[0] - values[1]) / 2  # t of one degree of freedom times s / sqrt(2)
        np.testing.assert_allclose([float(row[f"{key}_high"]) - float(row[key]) for row in rows], reach, atol=1e-9)
        limit = np.load(sets[0].parents[1] / "theory/phase_0.npy")[ranks, column].mean()
        np.testing.assert_allclose(float(rows[0][f"bayes_{('floor', 'ceiling')[column]}"]), limit)
        assert {row["seeds"] for row in rows} == {"2"} and {row["scored"] for row in rows} == {"10"}


def test_a_scatter_table_holds_every_selected_rank(project):
    rows = table_of(project / "cache/zipf_figs/small_logsoftmaxloss_vs_presentations_scatter.csv")
    run = project / "cache/zipf_small/heads=4,seed=1"
    own = [row for row in rows if row["run"].endswith("heads=4,seed=1")]
    loss, shown = np.load(run / "eval/phase_0/loss.npy"), np.load(run / "eval/phase_0/presentations.npy") > 0
    ranks = np.r_[0:10, 30:40, 60:70]
    assert len(own) == shown[:, ranks].sum()
    step = np.load(run / "eval/phase_0/step.npy").tolist()
    places = [step.index(int(row["step"])) for row in own], [int(row["rank"]) for row in own]
    np.testing.assert_allclose([float(row["loss"]) for row in own], loss[places], rtol=1e-6)


@pytest.mark.parametrize("key", ["loss", "accuracy"])
def test_a_line_a_model_and_bin_with_band_and_limit(project, key):
    found = found_of(sorted((project / "cache/zipf_small").iterdir()), project / "kept")
    drawing = experiments.lines(found, SELECTED, key, "model")
    with style.matplotlib_style():
        figure = experiments.draw(drawing, "small", [0.5], LOOK)
    (panel,) = figure.axes
    assert len(panel.collections) == 6, "a band each"
    assert len(panel.lines) == 6 + 6 + 1, "lines, their limits, chance"
    assert len({line.get_color() for line in panel.lines[:-1]}) == 2
    assert panel.get_xscale() == "log" and panel.get_yscale() == ("log" if key == "loss" else "linear")
    low, high = panel.get_ylim()
    assert all(low <= line.y.min() and line.y.max() <= high for line in drawing.panels[0].lines)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:5] == ["heads 2", "heads 4", "ranks 0–9", "ranks 30–39", "ranks 60–69"]
    box = figure.legends[0].get_window_extent(figure.canvas.get_renderer())
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    assert box.x0 >= panel.get_window_extent().x1, "the legend lies outside"


def test_points_are_as_many_as_evaluations_of_ranks(project):
    found = found_of([project / "cache/zipf_small/heads=4,seed=0"], project / "kept")
    drawing = experiments.scatter(found, SELECTED, "loss", "rank")
    with style.matplotlib_style():
        figure = experiments.draw(drawing, "small", [0.69], LOOK)
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(drawn) == 3
    assert sum(len(line.get_xdata()) for line in drawn) == len(drawing.table["step"])


def test_rank_ranges_and_settings_have_a_panel_each(project):
    found = found_of(sorted((project / "cache/zipf_small").iterdir()), project / "kept")
    drawing = experiments.by_range(found, WANTED.ranges(80), "loss")
    assert [panel.title for panel in drawing.panels] == ["heads 2", "heads 4"]
    assert [entry[0] for entry in drawing.entries] == ["ranks 0–4", "ranks 5–9", "ranks 10–79"]
    drawing = experiments.by_setting(found, WANTED.ranges(80), "loss", "heads", {0: 2, 1: 4})
    assert [panel.title for panel in drawing.panels] == ["ranks 0–4", "ranks 5–9", "ranks 10–79"]
    assert [len(panel.lines) for panel in drawing.panels] == [2, 2, 2]
    assert [entry[0] for entry in drawing.entries] == ["2", "4"]


def test_ranges_go_on_by_thousands():
    assert WANTED.ranges(3500)[-4:] == [(500, 1000), (1000, 2000), (2000, 3000), (3000, 4000)]
    assert WANTED.ranges(1) == [(0, 5)]


@pytest.mark.parametrize(
    ("selection", "ranks"),
    [("low", [*range(10)]), ("mid", [*range(30, 40)]), ("high", [*range(60, 70)]),
     ("selected", [*range(10), *range(30, 40), *range(60, 70)])],
)  # fmt: skip
def test_rank_selections(project, monkeypatch, selection, ranks):
    tasks = tasks_of(monkeypatch, "--runs", project / "cache/zipf_small/heads=2,seed=0", "--rank-selection", selection)
    scatter = next(task for task in tasks if task.name.endswith("scatter"))
    assert sorted(set(scatter.drawing.table["rank"].tolist())) == ranks


def tasks_of(monkeypatch, *arguments, code: int = 0) -> list:
    """The figures that a call would make."""
    made: list = []
    monkeypatch.setattr(main_module, "make", lambda tasks, *_: made.extend(tasks) or [])
    assert main_module.main([*map(str, arguments), *QUIET]) == code
    return made


def test_models_that_differ_in_events_too_are_labelled_with_their_own(tmp_path):
    paths = [write(tmp_path / "free", heads=2), write(tmp_path / "frozen", heads=4)]
    config = json.loads((paths[1] / "config.yaml").read_text())
    config["events"] = [{"kind": "freeze", "at": 400, "params": ["c_attn"]}]
    write_settings(paths[1], config)
    free, frozen = (model.label for model in found_of(paths, tmp_path / "kept"))
    assert free == "heads 2, events -" and frozen == "heads 4, events freeze c_attn at 400"


def test_a_set_of_every_tenth_rank_gives_true_ranks(tmp_path):
    run = write(tmp_path / "run")
    shutil.rmtree(run / "eval/phase_0")
    (model,) = found_of([run], tmp_path / "kept")
    assert sorted(set(analysis.points(model, SELECTED, "loss")["rank"].tolist())) == [0, 30, 60]
    line = analysis.curve(model, (30, 40), "loss")
    assert line.scored == 1
    np.testing.assert_allclose(line.y, np.load(run / "eval/train/loss.npy")[1:, 3], rtol=1e-6)


def test_phases_after_a_switch(tmp_path, capsys, monkeypatch):
    run = write(tmp_path / "run", switches=(400,))
    later = next(iter(tasks_of(monkeypatch, "--runs", run, "--phase", "1", "--cache", tmp_path)))
    assert later.drawing.table["step"].min() > 400
    assert call("--runs", run, "--cache", tmp_path, *QUIET, capsys=capsys)[2] == [
        "note: 1 run(s) have later phases: --phase 1 draws the next"]  # fmt: skip
    code, _, lines = call("--runs", run, "--phase", "2", "--cache", tmp_path, *QUIET, capsys=capsys)
    assert (code, len(lines)) == (65, 1) and "has 2 phase(s)" in lines[0]


@pytest.mark.parametrize("kind", ["one sequence", "one evaluation", "zero losses"])
@pytest.mark.filterwarnings("error")
def test_small_and_odd_runs_draw(tmp_path, kind):
    options = {"one sequence": {"num_sequences": 1}, "one evaluation": {"until": 100}}.get(kind, {})
    run = write(tmp_path / "Läufe [1] (zwei)" / "a=1 [β]", **options)
    if kind == "zero losses":
        np.save(run / "eval/phase_0/loss.npy", np.zeros_like(np.load(run / "eval/phase_0/loss.npy")))
    found = found_of([run], tmp_path / "kept")
    with style.matplotlib_style():
        for key in analysis.KEYS:
            ranges = experiments.by_range(found, WANTED.ranges(found[0].num_sequences), key)
            for draw in (experiments.lines, experiments.scatter, None):
                drawing = draw(found, SELECTED, key, "rank") if draw else ranges
                figure = experiments.draw(drawing, run.name, [0.69], LOOK)
                figure.canvas.draw()
                edge = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
                assert bool(edge) == (kind == "zero losses" and key == "loss")


def test_many_evaluations_are_thinned_evenly_on_a_log_axis():
    assert analysis.spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    rows = analysis.spread(10_000, 60)
    assert len(rows) <= 60 and rows[0] == 0 and rows[-1] == 9999 and (np.diff(rows) > 0).all()


def test_student_quantiles():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 5, 10, 11, 12, 20, 50, 1000):
        assert curves.student_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=3e-3)


# What is kept ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_equals_what_is_fresh(tmp_path, monkeypatch):
    run, folder = write(tmp_path / "run"), tmp_path / "kept"
    fresh = analysis.processed(runs.open_run(run), WANTED, folder)
    monkeypatch.setattr(analysis, "process", None)  # cannot be called
    again = analysis.processed(runs.open_run(run), WANTED, folder)
    assert fresh.keys() == again.keys()
    for name in fresh:
        np.testing.assert_array_equal(fresh[name], again[name])


def test_a_change_of_content_alone_is_noticed(tmp_path):
    run, folder = write(tmp_path / "run"), tmp_path / "kept"
    before = analysis.processed(runs.open_run(run), WANTED, folder)
    file = run / "eval/phase_0/loss.npy"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    loss = np.load(file)
    loss[-1] += 1
    np.save(file, loss)  # same size
    os.utime(file, ns=times)
    after = analysis.processed(runs.open_run(run), WANTED, folder)
    np.testing.assert_allclose(after["loss"][-1], before["loss"][-1] + 1, rtol=1e-6)
    other = analysis.processed(runs.open_run(run), WANTED._replace(selections=((0, 3),)), folder)
    assert other["rank_rank"].tolist() == [0, 1, 2]


def test_digests_are_taken_over_where_files_have_settled(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = kept.fingerprint({"a": file}, "")
    assert not kept.is_settled(first), "it was written this moment"
    later = {**first, "seen": first["seen"] + 10 * kept.SETTLED_NS, "digest": "known"}
    assert kept.fingerprint({"a": file}, "", later)["digest"] == "known"
    assert kept.fingerprint({"a": file}, "other options", later)["digest"] != "known"
    assert kept.fingerprint({"a": file}, "", first)["digest"] == first["digest"] != "known"
    file.write_bytes(b"two")
    assert kept.fingerprint({"a": file}, "", later)["digest"] not in ("known", first["digest"])
    file.unlink()
    assert kept.fingerprint({"a": file}, "", later)["digest"] not in ("known", first["digest"])


def test_what_is_kept_may_be_broken_or_forced(tmp_path):
    source, place, made = tmp_path / "a", tmp_path / "kept.npz", []
    source.write_bytes(b"x")

    def make():
        made.append(1)
        return {"value": np.array([len(made)])}

    for fresh, count in ((False, 1), (False, 1), (True, 2), (False, 2)):
        assert kept.arrays(place, {"a": source}, "", make, fresh)["value"].tolist() == [count]
    place.write_bytes(place.read_bytes()[:100])
    assert kept.arrays(place, {"a": source}, "", make)["value"].tolist() == [3]


def test_nothing_is_kept_of_a_file_that_changes_while_it_is_read(tmp_path):
    source, place = tmp_path / "a", tmp_path / "kept.npz"
    source.write_bytes(b"x")
    kept.arrays(place, {"a": source}, "", lambda: source.write_bytes(b"longer") and {"value": np.zeros(1)})
    assert not place.exists()


def test_figures_are_drawn_again_only_when_they_would_differ(tmp_path, capsys):
    run = write(tmp_path / "cache/run")
    words = ["--no-show-plots", "--dpi", "20", "--rank-selection", "low"]
    arguments = ["--runs", run, "--cache", tmp_path / "cache", *words]
    assert call(*arguments, capsys=capsys)[0] == 0
    figure = tmp_path / "cache/zipf_figs/run_accuracy_vs_presentations.png"
    first = figure.stat().st_mtime_ns, figure.read_bytes()
    code, out, _ = call(*arguments, capsys=capsys)
    assert code == 0 and str(figure) in out, "it is named all the same"
    assert figure.stat().st_mtime_ns == first[0]
    figure.write_bytes(b"something else")
    figure.with_name("run_accuracy_vs_presentations_rank_ranges.csv").unlink()
    call(*arguments, capsys=capsys)
    assert figure.read_bytes() == first[1]
    assert figure.with_name("run_accuracy_vs_presentations_rank_ranges.csv").exists()
    call(*arguments[:-1], "mid", capsys=capsys)
    assert figure.read_bytes() != first[1]


# What is read ---------------------------------------------------------------------------------------------------------


def test_notebook_pickles_are_read_as_run_directories_are(tmp_path, monkeypatch):
    record, sequences = notebook_record.record(rule="all_ranks", num_sequences=40, switches=())
    path = notebook_record.write_tree(tmp_path / "tree", record, sequences)
    (model,) = found_of(analysis.sources_in(path.parents[1]), tmp_path / "kept")
    line = analysis.curve(model, (30, 40), "accuracy")
    counts = np.array([log["num_apppearances"][30:40].mean() for log in record["logs"]])
    accuracy = [log["test_metrics"]["accuracy"][30:40].mean(dtype=float) for log in record["logs"]]
    np.testing.assert_allclose(line.x[: len(counts) - 1], counts[1:])
    np.testing.assert_allclose(line.y[: len(counts) - 1], accuracy[1:], rtol=1e-6)
    assert np.isfinite(line.limit), "the sequences are beside it"
    monkeypatch.setattr(analysis.convert, "import_record", None)
    assert analysis.open_source(path, tmp_path / "kept").path == path


def test_runs_that_cannot_be_read_are_named_and_the_others_drawn(tmp_path, capsys, monkeypatch):
    group = tmp_path / "group"
    write(group / "good")
    for name in ("corrupt", "half", "old", "not evaluated", "strange", "torn"):
        write(group / name)
    (group / "corrupt/eval/phase_0/loss.npy").write_bytes(b"junk")
    (group / "half/run.json").write_text('{"data": {"num_seq')
    (group / "old/run.json").unlink()
    shutil.rmtree(group / "not evaluated/eval")
    (group / "torn/status.json").write_text('{"state": "do')
    settings = json.loads((group / "strange/run.json").read_text())
    settings["facts"]["chance"] = {}
    (group / "strange/run.json").write_text(json.dumps(settings))
    (group / "cut.pkl").write_bytes(pickle.dumps({"args": [1.5] * 100}, 4)[:-20])
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    (group / "evil.pkl").write_bytes(pickle.dumps(Evil(), 4))
    code, _, lines = call("--runs", group, "--cache", tmp_path / "cache", *QUIET, capsys=capsys)
    assert code == 65
    assert not marker.exists()
    for name in ("corrupt", "half", "old", "not evaluated", "strange", "torn", "cut.pkl", "evil.pkl"):
        assert len([line for line in lines if line.startswith("error: ") and f"/{name}" in line]) == 1, name
    assert len(lines) == 8
    tasks = tasks_of(monkeypatch, "--runs", group, "--cache", tmp_path / "cache", code=65)
    assert [run.path.name for run in tasks[0].runs] == ["good"]


def test_no_run_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path in ("empty", "absent"):
        code, out, lines = call("--runs", path, "--cache", "cache", capsys=capsys)
        assert (code, out, len(lines)) == (64, "", 1) and path in lines[0]
    code, _, lines = call("--cache", "cache", capsys=capsys)
    assert code == 64 and lines == ["error: cache/zipf_small: no runs of experiment small yet; this makes them: "
                                    "mnemo sweep configs/zipf_small.yaml"]  # fmt: skip
    code, _, lines = call("--cache", "cache", "--experiment", "all", capsys=capsys)
    assert code == 64 and len(lines) == 4


def test_all_draws_the_experiments_that_are_there(project, monkeypatch, capsys):
    monkeypatch.setenv("MNEMO_CACHE", str(project / "cache"))
    tasks = tasks_of(monkeypatch, "--experiment", "all")
    assert {task.name.split("_")[0] for task in tasks} == {"small"}
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    "wrong",
    ["--experiment huge", "--format png,jpg", "--dpi 0", "--dpi x", "--phase -1", "--rank-selection all", "--runs",
     "--runs a --experiment small", "--style x"],
)  # fmt: skip
def test_wrong_options(wrong, capsys):
    assert call(*wrong.split(), capsys=capsys)[0] == 64


def test_settings_that_cannot_be_read(tmp_path):
    for text in (None, "RANK_RANGES = [", "RANKS = UNKNOWN"):
        path = tmp_path / "config.py"
        if text:
            path.write_text(text)
        with pytest.raises(main_module.UsageError, match=r"config\.py"):
            main_module.read_settings(path)


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("MNEMO_CACHE", raising=False)
    (tmp_path / "cache/zipf_small").mkdir(parents=True)
    (tmp_path / "a/b/cache").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert main_module.cache_folder(None, ["zipf_small"]) == tmp_path / "cache"
    assert main_module.cache_folder(None, []) == tmp_path / "a/b/cache"
    monkeypatch.chdir(tmp_path / "a")
    assert main_module.cache_folder(None, ["unknown"]) == main_module.SETTINGS.parents[1] / "cache"
    monkeypatch.setenv("MNEMO_CACHE", "/elsewhere")
    assert main_module.cache_folder(None, ["zipf_small"]) == Path("/elsewhere")
    assert main_module.cache_folder(Path("given"), []) == Path("given")


# How it is written and shown ------------------------------------------------------------------------------------------


def test_formats_with_embedded_fonts_and_paper(tmp_path, capsys):
    run = write(tmp_path / "run.a")
    words = ["--format", "pdf,svg,png", "--style", "paper", "--dpi", "40", "-o", tmp_path / "figures"]
    assert call("--runs", run, "--cache", tmp_path, "--no-show-plots", *words, capsys=capsys)[0] == 0
    start = tmp_path / "figures/run.a_accuracy_vs_presentations"
    assert b"/FontFile2" in Path(f"{start}.pdf").read_bytes()
    assert b"presentations (draws in training)" in Path(f"{start}.svg").read_bytes()
    content = Path(f"{start}.png").read_bytes()
    assert tuple(int.from_bytes(content[at : at + 4], "big") for at in (16, 20)) == (270, 168)
    assert Path(f"{start}.csv").exists()


def test_windows_are_opened_only_where_there_is_a_display(tmp_path, monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    assert not main_module.show([], None)
    run = write(tmp_path / "run")
    code, _, lines = call("--runs", run, "--cache", tmp_path, "--no-save-plots", capsys=capsys)
    assert code == 0 and lines[0].startswith("note: no display")
    assert not (tmp_path / "zipf_figs").exists()


def test_figures_are_shown_in_the_backend_that_is_named(monkeypatch):
    from matplotlib import pyplot
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    shown = []
    backend = types.ModuleType("recording_backend")
    backend.FigureCanvas, backend.FigureManager = backend_agg.FigureCanvasAgg, FigureManagerBase
    backend.show = lambda *_, **__: shown.extend(pyplot.figure(number).canvas.figure for number in pyplot.get_fignums())
    monkeypatch.setitem(sys.modules, "recording_backend", backend)
    figure = Figure()
    try:
        assert main_module.show([lambda: figure], "module://recording_backend")
        assert shown == [figure]
    finally:
        pyplot.close("all")
        pyplot.switch_backend("agg")


def test_progress_is_for_terminals(monkeypatch, capsys):
    assert list(command.progress([1, 2], "reading")) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(command.progress([1, 2], "reading")) == [1, 2]
    assert "reading [============            ] 1 of 2" in capsys.readouterr().err


# mnemo plot -----------------------------------------------------------------------------------------------------------


def test_plot_draws_several_runs_against_presentations(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MNEMO_CACHE", str(tmp_path / "cache"))
    a, b = write(tmp_path / "a", 2), write(tmp_path / "b", 4)
    monkeypatch.setattr(main_module, "_save", lambda files, *_: None)
    assert plot.main([str(a), str(b), "-o", str(tmp_path / "figures")]) == 0
    assert f"{tmp_path}/figures/runs_accuracy_vs_presentations.png" in capsys.readouterr().out
    assert plot.main([str(a), str(b), "--log"]) == 64
    assert "--log is for one run" in capsys.readouterr().err


def test_watching_draws_until_the_run_ends(tmp_path, monkeypatch, capsys):
    run = write(tmp_path / "run", until=-1)
    shutil.rmtree(run / "eval")
    drawn: list[int] = []

    def state(name: str, steps: int) -> None:
        if steps:
            shutil.rmtree(tmp_path / "other", ignore_errors=True)
            shutil.rmtree(run / "eval", ignore_errors=True)
            shutil.copytree(write(tmp_path / "other", until=steps) / "eval", run / "eval")
            os.utime(run / "eval/phase_0/step.npy", ns=(steps, steps))
        status = {"state": name, "step": steps, "steps": 800, "heartbeat": 1 << 40}
        (run / "status.json").write_text(json.dumps(status))

    story = iter([("running", 100), (), ("running", 200), ("done", 800), ()])
    monkeypatch.setattr(plot.time, "sleep", lambda _: (lambda scene: scene and state(*scene))(next(story)))
    save = style.save
    monkeypatch.setattr(style, "save", lambda *words: drawn.append(1) or save(*words))
    state("running", 0)
    assert plot.main([str(run), "--watch"]) == 0
    assert len(drawn) == 3, "at 100, at 200, at the end"
    out, err = capsys.readouterr()
    assert out == f"{run}/figure.png\n"
    assert err.count("note: waiting: ") == 1 and "nothing has been evaluated yet" in err
    assert next(story, None) is None


def test_watching_a_run_that_is_done_draws_once(tmp_path, monkeypatch, capsys):
    run = write(tmp_path / "run")
    monkeypatch.setattr(plot.time, "sleep", lambda _: None)
    assert plot.main([str(run), "--watch"]) == 0
    assert capsys.readouterr().out == f"{run}/figure.png\n"
    assert plot.main([str(run), "--watch", "--set", "unknown"]) == 64
