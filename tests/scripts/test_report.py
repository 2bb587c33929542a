"""`mnemo report`: what is in the page, and how the page behaves in a browser."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_chromium
from synthetic_run import REPOSITORY, example_config, write_run, write_settings

from mnemo import curves, sweeps
from mnemo.commands import report as command
from mnemo.errors import MnemoError
from mnemo.report import contents
from mnemo.sweeps import Axis

EVIL = "<img src=x onerror=window.hacked=1>&amp; é"
LR = ("0.0001", "0.001", "0.01")


def set_state(path: Path, state: str) -> None:
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps({**status, "state": state}))


def change(path: Path, kind: str | None = None, **settings) -> Path:
    """A run of write_run with other settings: run, seed, lr, kind of the model."""
    config = example_config(60, 16, 400, [200])
    config.update({key: value for key, value in settings.items() if key in config})
    config["train"].update({key: value for key, value in settings.items() if key in config["train"]})
    config["model"]["kind"] = kind or config["model"]["kind"]
    write_settings(path, {**config, "run": path.name})
    return path


def small_run(path: Path, **settings) -> Path:
    return change(write_run(path, num_sequences=60, steps=400, switches=(200,)), **settings)


def write_sweep(folder: Path) -> Path:
    """Three learning rates with two seeds: one run diverged, one at chance, one waiting; the largest lr is the best."""
    lines = []
    for lr in LR:
        for seed in (0, 1):
            path = folder / f"seed={seed},train.lr={lr}"
            lines.append({"run": path.name, "id": path.name, "values": {"train.lr": lr, "seed": str(seed)}})
            if (lr, seed) == (LR[2], 1):
                path.mkdir()
                (path / "config.yaml").write_text("name: waiting")
                continue
            small_run(path, lr=float(lr), seed=seed)
            for key, better in (("loss", -0.05), ("accuracy", 0.02)):
                file = path / f"eval/train/{key}.npy"
                np.save(file, np.load(file) + np.float32(better * LR.index(lr)))
    (folder / ".sweep").mkdir()
    (folder / ".sweep/manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    set_state(folder / f"seed=1,train.lr={LR[0]}", "diverged")
    set_state(folder / f"seed=1,train.lr={LR[1]}", "at_chance")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache with a sweep, a run in flight with a name that is HTML, a memory, and a corrupt run."""
    folder = tmp_path_factory.mktemp("cache")
    write_sweep(folder / "sweep")
    flight = write_run(folder / "g" / EVIL, num_sequences=60, steps=400, switches=(200,), until=300)
    change(flight, precision="<b>fp32</b>")
    small_run(folder / "dam/dam", kind="dam")
    corrupt = small_run(folder / "g/corrupt")
    (corrupt / "eval/phase_0/loss.npy").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def made(cache, tmp_path_factory) -> tuple[Path, int]:
    """A report of it, and the exit code of the command."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    arguments = [str(cache), str(cache / "absent"), "-o", str(output), "--title", "<script>window.hacked=2</script>"]
    return output, exit_code(arguments)


def exit_code(arguments: list[str]) -> int:
    """Of the command, as the entry point has it."""
    try:
        return command.main(arguments)
    except MnemoError as error:
        return error.code
    except SystemExit as stop:
        return stop.code


def unpack(page: Path) -> tuple[dict, np.ndarray]:
    """The tree and the numbers of a page."""
    text = page.read_text("utf-8")
    tree, planes = (zlib.decompress(base64.b64decode(re.search(f'id="packed-{part}">([^<]*)<', text)[1]))
                    for part in ("tree", "numbers"))  # fmt: skip
    return json.loads(tree), np.frombuffer(planes, np.uint8).reshape(4, -1).T.copy().view("<f4")[:, 0]


def command_line(*arguments: str, **options) -> subprocess.CompletedProcess:
    script = [sys.executable, str(REPOSITORY / "scripts/report.py"), *arguments]
    return subprocess.run(script, capture_output=True, text=True, **options)


# What is in it --------------------------------------------------------------------------------------------------------


def test_curves_are_the_means_over_rank_bins(run_dir, tmp_path):
    assert command.main([str(run_dir), "-o", str(tmp_path / "r.html")]) == 0
    tree, numbers = unpack(tmp_path / "r.html")
    (run,) = tree["runs"]
    assert tree["bins"] == ["all ranks", "ranks 0-9", "ranks 10-99", "ranks 100-199"]
    first, after, second = run["curves"]
    assert [(curve["phase"], curve["after"]) for curve in run["curves"]] == [(0, False), (0, True), (1, False)]
    columns = {name: np.load(run_dir / f"eval/phase_0/{name}.npy") for name in ("step", "phase", "loss", "rank")}
    for curve, rows in ((first, columns["phase"] == 0), (after, columns["phase"] == 1)):
        start, count = curve["step"]
        assert np.array_equal(numbers[start : start + count], columns["step"][rows])
        expected = curves.bin_mean(columns["loss"][rows], columns["rank"], [(0, 200), (0, 10), (10, 100), (100, 200)])
        for part, mean in zip(curve["bins"], expected.T):
            start, count = part["loss"]
            np.testing.assert_allclose(numbers[start : start + count], mean, rtol=2**-13)
    floor = np.load(run_dir / "theory/phase_1.npy")[:10, 0].mean()
    assert second["bins"][1]["floor"] == pytest.approx(floor) and run["state"] == "done"
    assert run["result"]["loss"] == pytest.approx(np.load(run_dir / "eval/train/loss.npy")[-1].mean())
    assert run["provenance"]["config"] == (run_dir / "config.yaml").read_text()


def test_long_curves_are_thinned_and_the_page_says_so(make_run, tmp_path, capsys):
    path = make_run(num_sequences=20, steps=2000, switches=(), evaluations=400)
    assert command.main([str(path), "-o", str(tmp_path / "r.html"), "--points", "50"]) == 0
    assert "at most 50 points" in capsys.readouterr().err
    tree, numbers = unpack(tmp_path / "r.html")
    (curve,) = tree["runs"][0]["curves"]
    start, count = curve["step"]
    assert count == 50 and curve["all"] == 401 and tree["thinned"] == 1
    assert numbers[start] == 0 and numbers[start + count - 1] == 2000


def test_many_runs_share_the_numbers_that_a_page_holds(cache, monkeypatch):
    monkeypatch.setattr(contents, "MAX_NUMBERS", 6 * 22 * 50)  # runs x curves x points
    tree, numbers = contents.report_contents([cache / "sweep"])
    assert tree["points"] == 50 and len(numbers) < 6 * 22 * 50
    monkeypatch.setattr(contents, "MAX_NUMBERS", 10)
    assert contents.report_contents([cache / "sweep"])[0]["points"] == contents.LEAST_POINTS


def test_numbers_keep_four_digits():
    values = np.random.default_rng(0).random(1000) * 10.0 ** np.arange(-5, 5).repeat(100)
    rounded = contents._rounded(values)
    assert np.abs(rounded / values - 1).max() <= 2**-13
    special = np.array([0.0, np.nan, np.inf, -np.inf])
    assert np.array_equal(contents._rounded(special), special, equal_nan=True)


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(made, cache):
    output, code = made
    tree, _ = unpack(output)
    assert code == 65 and len(tree["runs"]) == 8
    assert [problem.split(": ")[0] for problem in tree["problems"]] == [
        str(cache / "absent"), str(cache / "g/corrupt/eval/phase_0/loss.npy")]  # fmt: skip
    assert {run["state"] for run in tree["runs"]} == {"done", "running", "waiting", "at_chance", "diverged"}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: (path / "config.yaml").unlink(), "has no config.yaml, so that it is no run"),
        (lambda path: (path / "run.json").write_text("{"), "run.json: "),
        (lambda path: (path / "run.json").unlink(), "has no run.json: an older version wrote it"),
        (lambda path: (path / "metrics.jsonl").write_text("junk\n"), "metrics.jsonl:1"),
    ],
)
def test_one_line_a_broken_run(run_dir, tmp_path, break_it, message):
    break_it(run_dir)
    with pytest.raises(MnemoError) as error:
        command.main([str(run_dir), "-o", str(tmp_path / "r.html")])
    text = str(error.value)
    assert error.value.code == 65 and text.startswith(str(run_dir)) and message in text and "\n" not in text
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("name", "message"), [("f", "is a file"), ("no", "no such directory"), (".", "holds no run")])
def test_a_folder_without_runs_and_a_file_are_refused(tmp_path, name, message):
    (tmp_path / "f").write_text("")
    with pytest.raises(MnemoError, match=message) as error:
        command.main([str(tmp_path / name), "-o", str(tmp_path / "r.html")])
    assert error.value.code == 65 and not (tmp_path / "r.html").exists()


def test_columns_are_the_settings_that_differ(made):
    tree, _ = unpack(made[0])
    assert tree["columns"][:3] == ["model.kind", "train.lr", "seed"]
    assert "precision" in tree["columns"] and "train.batch_size" not in tree["columns"]


def test_a_sweep_has_its_best_and_a_warning_at_the_edge(made):
    (sweep,) = unpack(made[0])[0]["sweeps"]
    (view,) = sweep["views"]
    assert (sweep["name"], view["key"], view["log"]) == ("sweep", "train.lr", True)
    assert view["best"]["loss"]["x"] == 0.01 and view["best"]["loss"]["text"] == "lr = 0.01"
    assert view["warnings"] == ["loss and accuracy: the best train.lr = 0.01 is the largest tried; try 0.1 or 1"]
    (line,) = view["lines"]
    assert line["loss"]["x"] == [0.0001, 0.001, 0.01]
    assert [dot["state"] for dot in line["dots"] if "loss" not in dot] == ["diverged", "waiting"]


@pytest.mark.parametrize(
    ("values", "best", "further"),
    [
        (("0.001", "0.01", "0.1"), 2, "try 1 or 10"),
        (("0.001", "0.01", "0.1"), 0, "try 0.0001 or 1e-05"),
        (("0.001", "0.01", "0.1"), 1, None),
        (("1", "2", "4"), 2, "try 8 or 16"),
        (("1", "2", "4"), 0, None),
        (("0", "0.5"), 1, "try 1 or 1.5"),
        (("relu", "gelu"), 1, None),
    ],
)
def test_the_edge_of_a_grid(values, best, further):
    warning = sweeps.edge_warning(Axis(("k",), tuple((value,) for value in values)), range(len(values)), best)
    assert (warning is None) if further is None else warning.endswith(further)


def test_equal_runs_give_equal_bytes_and_nothing_is_fetched(made, cache):
    arguments = [str(cache), str(cache / "absent"), "--title", "<script>window.hacked=2</script>"]
    before = made[0].read_bytes()
    exit_code([*arguments[:2], "-o", str(made[0]), *arguments[2:4]])
    assert made[0].read_bytes() == before
    page = re.sub(r"<script>.*?</script>", "", before.decode(), flags=re.S)
    assert "<title>&lt;script&gt;" in page and "http" not in re.sub("http-equiv", "", page)
    assert "default-src 'none'" in page


def test_extremes(make_run, tmp_path):
    one = make_run("one", num_sequences=1, steps=10, switches=(), evaluations=1)
    np.save(one / "eval/phase_0/loss.npy", np.zeros((2, 1), np.float32))
    begun = make_run("begun", until=-1)
    assert command.main([str(one), str(begun), "-o", str(tmp_path / "r.html")]) == 0
    tree, numbers = unpack(tmp_path / "r.html")
    assert [len(run["curves"]) for run in tree["runs"]] == [1, 0] and np.isfinite(numbers).all()


def test_a_python_without_plotly_says_how_to_get_it(run_dir, tmp_path):
    (tmp_path / "plotly").mkdir()
    (tmp_path / "plotly/__init__.py").write_text("raise ImportError")
    done = command_line(str(run_dir), cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 73 and "pip install plotly" in done.stderr and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("options", [["--points", "1"], ["--points", "x"], ["--bins", "3,2"], []])
def test_wrong_usage(options):
    assert exit_code(options + (["run"] if options else [])) == 64


# In a browser ---------------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no chromium here (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    """The report in a browser without a network, once for all tests; each sets what it looks at."""
    with Page(made[0].as_uri(), tmp_path_factory.mktemp("profile")) as page:
        page.wait_for("document.documentElement.dataset.ready === 'true'")
        yield page


def choose(page: Page, name: str, value: str | bool) -> None:
    """Sets a select or a box, as a user would."""
    field = "checked" if isinstance(value, bool) else "value"
    page.value(f"(() => {{ const e = document.getElementById({name!r}); e.{field} = {json.dumps(value)}; "
               "e.dispatchEvent(new Event('change')); e.dispatchEvent(new Event('input')); })()")  # fmt: skip


def names(page: Page) -> list[str]:
    return page.value("[...document.querySelectorAll('#table tbody .name')].map((cell) => cell.textContent)")


def traces(page: Page, plot: str) -> list[dict]:
    """The curves of a plot, without limits."""
    code = "{}.data.filter((t) => t.meta !== 'limit').map((t) => ({{name: t.name, x: [...t.x], y: [...t.y]}}))"
    return page.value(code.format(f"document.getElementById({plot!r})"))


@needs_browser
def test_the_page_loads_without_errors_and_runs_no_name(page):
    assert page.errors == []
    assert page.value("document.querySelectorAll('.plot .main-svg').length") >= 8
    assert page.value("document.getElementById('title').textContent") == "<script>window.hacked=2</script>"
    assert EVIL in names(page)
    assert page.value("typeof window.hacked + document.querySelectorAll('#main img, #main b').length") == "undefined0"
    assert page.value("[...document.querySelectorAll('#problems li')].length") == 2


@needs_browser
def test_a_point_under_the_mouse_says_what_it_is(page):
    number = page.value("document.getElementById('loss').data.findIndex((t) => (t.name || '').includes('onerror'))")
    page.value(f"Plotly.Fx.hover('loss', [{{curveNumber: {number}, pointNumber: 2}}])")
    page.wait_for("document.querySelector('#loss .hoverlayer').textContent.length > 0")
    told = page.value("document.querySelector('#loss .hoverlayer').textContent").replace("\u00a0", " ")
    assert EVIL in told and "step 40" in told and "loss 0." in told and "presentations" in told
    page.value("Plotly.Fx.unhover('loss')")
    assert page.errors == []


@needs_browser
def test_toggles_change_the_plot(page):
    axis = "document.getElementById('loss')._fullLayout.{}axis.type"
    assert page.value(axis.format("y")) == "linear"
    choose(page, "log-loss", True)
    assert page.value(axis.format("y")) == "log"
    choose(page, "log-loss", False)
    before = traces(page, "accuracy")
    choose(page, "bin", "every")
    by_bin = traces(page, "accuracy")
    assert len(by_bin) == 2 * len(before) and all("ranks 0–9" in t["name"] or "10–59" in t["name"] for t in by_bin)
    choose(page, "x", "presentations")
    assert page.value(axis.format("x")) == "log"
    seen = traces(page, "accuracy")[0]
    assert seen["x"][0] is None and seen["x"][-1] > 100  # nothing is drawn before the first presentation
    choose(page, "x", "step")
    choose(page, "bin", "0")
    limits = "document.getElementById('loss').data.filter((t) => t.meta === 'limit').length"
    assert page.value(limits) > 0
    choose(page, "limits", False)
    assert page.value(limits) == 0
    choose(page, "limits", True)
    choose(page, "training", True)
    assert sum("training" in t["name"] for t in traces(page, "loss")) == page.value(
        "document.querySelectorAll('#table tbody input:checked').length"
    )
    choose(page, "training", False)
    assert traces(page, "accuracy") == before and page.errors == []


@needs_browser
def test_the_table_sorts_by_keyboard(page):
    page.value("[...document.querySelectorAll('#table thead button')].find((b) => b.textContent === 'loss').focus()")
    column = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[2].textContent)"
    page.press("Enter", 13, "\r")
    rising = page.value(column)
    numbers = [float(value) for value in rising if value != "–"]
    assert len(numbers) == 7 and numbers == sorted(numbers) and rising[-1] == "–"  # what waits is last
    page.press("Enter", 13, "\r")
    assert page.value(column) == [*reversed(rising[:-1]), "–"]
    assert page.value("document.querySelector('#table th[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert page.errors == []


@needs_browser
def test_the_table_filters_by_words(page):
    choose(page, "filter", "lr=0.001 seed=1")
    assert names(page) == ["seed=1,train.lr=0.001"]
    assert page.value("document.getElementById('matching').textContent") == "1 of 8 runs"
    choose(page, "filter", "diverged")
    assert names(page) == ["seed=1,train.lr=0.0001"]
    choose(page, "filter", "nothing has this")
    assert names(page) == []
    choose(page, "filter", "")
    assert len(names(page)) == 8


@needs_browser
def test_ticks_choose_what_is_drawn(page):
    count = len(traces(page, "accuracy"))
    page.value("document.querySelector('#table tbody input:checked').click()")
    assert len(traces(page, "accuracy")) < count
    page.value("document.getElementById('draw-none').click()")
    assert traces(page, "accuracy") == []
    assert "No run is drawn" in page.value("document.getElementById('curves-note').textContent")
    page.value("document.getElementById('draw-listed').click()")
    assert len(traces(page, "accuracy")) == count and page.errors == []


@needs_browser
def test_sweep_and_overlay_are_drawn(page):
    dots = page.value("document.getElementById('sweep-0-loss').data.find((t) => t.meta === 'runs').x")
    assert dots == [0.0001, 0.001, 0.001, 0.01]
    assert page.value("document.querySelector('#sweeps .warning').textContent").startswith("Edge of the grid. By loss")
    overlay = traces(page, "overlay")
    assert len(overlay) == 4 and sum(t["name"].startswith("dam, ") for t in overlay) == 2
    choose(page, "measure", "loss")
    assert traces(page, "overlay")[0]["y"] != overlay[0]["y"] and page.errors == []


@needs_browser
def test_light_dark_and_narrow(page):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.value(paper)
    line = page.value("document.getElementById('loss').data.find((t) => t.meta !== 'limit').line.color")
    page.value("document.getElementById('theme').click()")
    assert page.value(paper) != light
    assert page.value("document.getElementById('loss').data.find((t) => t.meta !== 'limit').line.color") != line
    page.resize(390, 800)
    page.wait_for("document.querySelector('#loss .main-svg').getBoundingClientRect().width < 390")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    page.value("document.querySelector('#configurations summary').click()")
    page.wait_for("document.querySelector('#configurations pre') !== null")
    assert page.errors == []
