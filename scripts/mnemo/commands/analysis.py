"""`scripts/analysis.py`: figures of the experiments in scripts/config.py, or of any runs, against presentations."""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import os
import pickle
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mnemo
from mnemo import analysis, command, curves, kept, members
from mnemo.analysis import Model
from mnemo.errors import EXIT_DATA, EXIT_IO, EXIT_USAGE, DataError, UsageError
from mnemo.figures import experiments, style
from mnemo.figures.experiments import Drawing, Look
from mnemo.runs import Run

SETTINGS = Path(mnemo.__file__).resolve().parents[1] / "config.py"
METRICS = {"loss": "logsoftmaxloss", "accuracy": "accuracy"}  # as file names have them
DPI_LIMITS = (20, 1200)
MAX_PANELS = 12


class Source(NamedTuple):
    """A run directory or a notebook record, and the experiment it is of."""

    experiment: str
    path: Path


# Settings and arguments -----------------------------------------------------------------------------------------------


def read_settings(path: Path = SETTINGS) -> Any:
    """The module config.py; UsageError where it is missing or cannot be run."""
    try:
        spec = importlib.util.spec_from_file_location("mnemo_analysis_settings", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise UsageError(f"{path}: is missing; it has the settings of analysis.py") from None
    except (SyntaxError, NameError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {command.one_line(error)}") from None
    return module


def _formats(text: str) -> list[str]:
    known = [ending[1:] for ending in style.FORMATS]
    found = [word.strip().lower() for word in text.split(",")]
    for word in found:
        if word not in known:
            raise ValueError(f"a format is one of {', '.join(known)}, got {word!r}")
    return list(dict.fromkeys(found))


def _dpi(text: str) -> int:
    low, high = DPI_LIMITS
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"dots per inch are a number from {low} to {high}, got {text!r}")
    return int(text)


def _phase(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise ValueError(f"a phase is a number from 0 on, got {text!r}")
    return int(text)


def _parser(settings: Any) -> argparse.ArgumentParser:
    default = settings.DEFAULTS
    parser = argparse.ArgumentParser(
        prog="analysis.py",
        description="Draw loss and accuracy against presentations: of the models of an experiment, or of any runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"""examples:
  scripts/analysis.py                                      experiment {default["experiment"]}
  scripts/analysis.py --experiment all --comparative       and side by side: models, heads, layers, ...
  scripts/analysis.py --runs cache/sweep_lr                any run directories, sweeps, or notebook pickles
  scripts/analysis.py --style paper --format pdf,svg       without titles, for a page

Figures go to cache/{settings.FIGURES_FOLDER}/, each with a .csv of what is plotted; data made of runs to
cache/{settings.PROCESSED_FOLDER}/, where they are used again for as long as the runs' files stay what they are.
scripts/config.py has the settings. Ranks are true ranks: 0 is the most frequent sequence.
What can be drawn is drawn, whatever is wrong with the rest.
exit codes: 0 done, 64 usage (no run there), 65 corrupt data, 74 a file cannot be read or written""",
    )
    what = parser.add_mutually_exclusive_group()
    names = [*settings.EXPERIMENTS, "all"]
    what.add_argument("--experiment", choices=names, help=f"whose runs to draw (default {default['experiment']})")
    what.add_argument("--runs", nargs="+", metavar="PATH", type=command.path_argument,
                      help="run directories, folders of runs, notebook pickles")  # fmt: skip
    parser.add_argument("--rank-selection", choices=[*settings.RANK_SELECTIONS], default=default["rank_selection"],
                        help=f"ranks of the figures by selection (default {default['rank_selection']}): " + ", ".join(
                            f"{name} {' '.join(f'{a}-{b - 1}' for a, b in bins)}"
                            for name, bins in settings.RANK_SELECTIONS.items()))  # fmt: skip
    parser.add_argument("--comparative", action="store_true", help="also compare models, " + ", ".join(
        name.replace("_", " ") for name in settings.COMPARISONS))  # fmt: skip
    parser.add_argument("--phase", metavar="N", type=command.argument(_phase), default=0,
                        help="sequences of which phase: N switches before (default 0)")  # fmt: skip
    parser.add_argument("--color", choices=("rank", "model"), help="what colours mean (default: model, if several)")
    parser.add_argument("--force-reprocess", action="store_true",
                        help=f"read and draw all anew, whatever is in cache/{settings.PROCESSED_FOLDER}")  # fmt: skip
    parser.add_argument("--no-show-plots", action="store_true", help="open no windows (without a display none opens)")
    parser.add_argument("--no-save-plots", action="store_true", help="write no figures")
    parser.add_argument("--format", metavar="F,...", type=command.argument(_formats), default=default["format"],
                        help=f"png, svg, pdf, or several (default {','.join(default['format'])})")  # fmt: skip
    parser.add_argument("--dpi", metavar="N", type=command.argument(_dpi), help="dots per inch (default of the style)")
    parser.add_argument("--style", choices=[*settings.STYLES], default=default["style"],
                        help=f"size and fonts (default {default['style']})")  # fmt: skip
    parser.add_argument("--cache", metavar="DIR", type=command.path_argument,
                        help="default: $MNEMO_CACHE, cache/ here or above, or that of this checkout")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR", type=command.path_argument, help="folder of the figures")
    return parser


# Where runs are -------------------------------------------------------------------------------------------------------


def cache_folder(given: Path | None, folders: Sequence[str]) -> Path:
    """The root of all runs: what was given, $MNEMO_CACHE, else `cache` here, above or in this checkout.

    Folders above count where they hold one of the wanted `folders`; else it is the cache here or of this checkout.
    """
    if given or os.environ.get("MNEMO_CACHE"):
        return given or command.cache_folder()
    here, own = Path.cwd(), SETTINGS.parents[1] / "cache"
    for root in [*(folder / "cache" for folder in (here, *here.parents)), own]:
        if any((root / folder).is_dir() for folder in folders):
            return root
    return next((root for root in (here / "cache", own) if root.is_dir()), here / "cache")


def find_sources(arguments: argparse.Namespace, settings: Any, cache: Path) -> tuple[list[Source], list[Exception]]:
    """What to read, and what is wrong with the rest of it."""
    found: dict[Path, Source] = {}
    wrong: list[Exception] = []
    if arguments.runs:
        name = arguments.runs[0].resolve().name if len(arguments.runs) == 1 else "runs"
        name = Path(name).stem if name.endswith(analysis.RECORD_ENDINGS) else name
        wanted = [(name, path) for path in arguments.runs]
    else:
        chosen = arguments.experiment or settings.DEFAULTS["experiment"]
        chosen = [*settings.EXPERIMENTS] if chosen == "all" else [chosen]
        wanted = [(name, cache / settings.EXPERIMENTS[name]["folder"]) for name in chosen]
    for name, path in wanted:
        try:
            found.update({source: Source(name, source) for source in analysis.sources_in(path)})
        except FileNotFoundError as error:
            wrong.append(error if arguments.runs else UsageError(_how_to_make(name, path, settings)))
        except OSError as error:
            wrong.append(error)
    return list(found.values()), wrong


def _how_to_make(name: str, folder: Path, settings: Any) -> str:
    words = (os.environ.get("MNEMO_PROGRAM", "mnemo"), "sweep", settings.EXPERIMENTS[name]["config"])
    return f"{folder}: no runs of experiment {name} yet; this makes them: {' '.join(map(shlex.quote, words))}"


def read_all(
    sources: Sequence[Source], wanted: analysis.Wanted, folder: Path, fresh: bool
) -> tuple[dict[Run, dict], dict[Path, str], list[Exception]]:
    """Processed data by run, the experiment of each path, and why others are left out."""
    data: dict[Run, dict] = {}
    experiment: dict[Path, str] = {}
    wrong: list[Exception] = []
    for source in command.progress(sources, "reading runs"):
        try:
            run = analysis.open_source(source.path, folder, fresh)
            taken = analysis.processed(run, wanted, folder, fresh)
            _look_over(run)
            data[run], experiment[run.path] = taken, source.experiment
        except (ValueError, OSError) as error:
            wrong.append(error)
        except (KeyError, TypeError, AttributeError, IndexError) as error:  # settings of a kind that no version wrote
            wrong.append(DataError(f"{source.path}: not a run of this version: {type(error).__name__} {error}"))
    return data, experiment, wrong


def _look_over(run: Run) -> None:
    """Reads what figures say of a run beside its data, so that nothing can fail afterwards."""
    members.unfinished(run), members.random_numbers(run), members.experiment(run.config)
    run.settings_line(), curves.chance(run), style.provenance([run]), run.switches  # noqa: B018


# Figures --------------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """A figure to make: the name of its file without an ending, what to draw, and of which runs."""

    name: str
    drawing: Drawing
    title: str
    runs: tuple[Run, ...]
    chance: list[float]

    def figure(self, look: Look) -> Any:
        return experiments.draw(self.drawing, self.title, self.chance, look)


def of_experiment(name: str, found: list[Model], arguments: argparse.Namespace, settings: Any) -> Iterator[Task]:
    """The figures of one experiment."""
    selection = settings.RANK_SELECTIONS[arguments.rank_selection]
    ranges = _wanted(arguments, settings).ranges(max(model.num_sequences for model in found))
    by = arguments.color or ("model" if len(found) > 1 else "rank")
    made = {
        "logsoftmaxloss_vs_presentations_line": experiments.lines(found, selection, "loss", by),
        "logsoftmaxloss_vs_presentations_scatter": experiments.scatter(found, selection, "loss", by),
        "accuracy_vs_presentations": experiments.lines(found, selection, "accuracy", by),
    }
    for key, metric in METRICS.items():
        drawing = experiments.by_range(found[:MAX_PANELS], ranges, key)
        some = f"the first {MAX_PANELS} of {len(found)} models" if len(found) > MAX_PANELS else ""
        notes = " · ".join(filter(None, [some, drawing.notes]))
        made[f"{metric}_vs_presentations_rank_ranges"] = drawing._replace(notes=notes)
    for end, drawing in made.items():
        yield _complete(f"{name}_{end}", drawing, found, name)


def comparative(found: list[Model], arguments: argparse.Namespace, settings: Any) -> Iterator[Task]:
    """The figures that lay models side by side: one a rank range, and one a setting in which they differ."""
    ranges = _wanted(arguments, settings).ranges(max(model.num_sequences for model in found))
    few = [ranks for ranks in ranges if ranks[1] <= settings.RANK_RANGES[-1]]
    for key, metric in METRICS.items():
        start = f"{settings.COMPARATIVE_FOLDER}/{metric}_vs_presentations"
        for ranks in ranges:
            drawing = experiments.of_range(found, ranks, key)
            yield _complete(f"{start}_line_{ranks[0]}-{ranks[1]}", drawing, found, "models")
        for name, setting in settings.COMPARISONS.items():
            values = {place: analysis.setting(model, setting) for place, model in enumerate(found)}
            values = {place: value for place, value in values.items() if value is not None}
            if len(set(values.values())) > 1:
                drawing = experiments.by_setting(found, few, key, name.replace("_", " "), values)
                yield _complete(f"{start}_by_{name}", drawing, found, "models")


def _wanted(arguments: argparse.Namespace, settings: Any) -> analysis.Wanted:
    selections = dict.fromkeys(tuple(ranks) for bins in settings.RANK_SELECTIONS.values() for ranks in bins)
    return analysis.Wanted(tuple(selections), tuple(settings.RANK_RANGES), settings.FURTHER_RANGES, arguments.phase,
                           settings.MAX_ROWS, settings.MAX_POINTS)  # fmt: skip


def _look(arguments: argparse.Namespace, settings: Any) -> Look:
    chosen = settings.STYLES[arguments.style]
    limits = (settings.PRESENTATION_LIMITS, settings.LOSS_LIMITS, settings.ACCURACY_LIMITS)
    return Look(chosen["size"], chosen["font"], chosen["line"], chosen["title"], *limits)


def _complete(name: str, drawing: Drawing, found: list[Model], title: str) -> Task:
    """A task with what its runs say of themselves."""
    every = [run for model in found for run in model.member.runs]
    chance = {curves.chance(run)[style.POSITION[drawing.key]] for run in every}
    only = every[0].settings_line(" · ") if len(found) == 1 else ""
    notes = " · ".join(filter(None, [drawing.notes, only]))
    return Task(name, drawing._replace(notes=notes), title, tuple(every), sorted(chance))


def _notes(found: Sequence[Model], arguments: argparse.Namespace) -> Iterator[str]:
    """What a reader of the figures must know."""
    for model in found:
        for path, original in model.member.copies:
            yield f"{path}: left out, no other seed: data and weights are those of {original}"
        if model.member.state:
            yield f"{model.member.name}: not done, so no seed among others"
    later = [run.path for model in found for run in model.member.runs if len(run.switches) > arguments.phase]
    if later:
        yield f"{len(later)} run(s) have later phases: --phase {arguments.phase + 1} draws the next"
    if len(found) > MAX_PANELS:
        yield f"by rank range the first {MAX_PANELS} of {len(found)} models are drawn; --runs names others"


def _tasks(
    data: dict[Run, dict], experiment: dict[Path, str], arguments: argparse.Namespace, settings: Any
) -> list[Task]:
    tasks: list[Task] = []
    for name in dict.fromkeys(experiment.values()):
        of = {run: entry for run, entry in data.items() if experiment[run.path] == name}
        found = analysis.models(of)
        for note in _notes(found, arguments):
            command.note(note)
        tasks += of_experiment(name, found, arguments, settings)
    if arguments.comparative:
        found = analysis.models(data, experiment)
        if len(found) < 2:
            command.note("--comparative: there is one model, and nothing to compare it with")
        else:
            tasks += comparative(found, arguments, settings)
    return [task for task in tasks if len(next(iter(task.drawing.table.values()), ()))]


def make(
    tasks: Sequence[Task], output: Path, folder: Path, arguments: argparse.Namespace, settings: Any
) -> list[Callable[[], Any]]:
    """Saves all figures, unless it shall not, and returns what draws them, unless they shall not be shown.

    A file that holds already what would be drawn stays as it is; `folder` remembers it.
    """
    look, dpi = _look(arguments, settings), arguments.dpi or settings.STYLES[arguments.style]["dpi"]
    end = f"_phase_{arguments.phase}" if arguments.phase else ""
    figures, written = [], []
    with style.matplotlib_style():
        for task in command.progress(tasks, "drawing figures"):
            draw = functools.cache(lambda task=task: task.figure(look))
            if not arguments.no_save_plots:
                files = [output / f"{task.name}{end}.{ending}" for ending in arguments.format]
                save = functools.partial(_save, files, draw, task, dpi)
                note = folder / "figures" / f"{hashlib.sha256(str(files[0].resolve()).encode()).hexdigest()[:16]}.json"
                every = [*files, files[0].with_suffix(".csv")]
                kept.outputs(note, every, _salt(task, look, dpi), save, arguments.force_reprocess)
                written += files
            if not arguments.no_show_plots:
                figures.append(draw)
    for file in written:
        print(file)
    return figures


def _save(files: Sequence[Path], draw: Callable[[], Any], task: Task, dpi: int) -> None:
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for index, file in enumerate(files):
        style.save(draw(), file, task.runs, None if index else task.drawing.table, dpi)


def _salt(task: Task, look: Look, dpi: int) -> str:
    """A digest of all that determines a figure's files."""
    import matplotlib

    code = kept.code_digest([__file__, experiments.__file__, style.__file__])
    what = (task.drawing, task.title, task.chance, look, dpi, style.provenance(task.runs), code, matplotlib.__version__)
    return hashlib.blake2b(pickle.dumps(what), digest_size=16).hexdigest()


def act(arguments: argparse.Namespace, settings: Any, backend: str | None) -> int:
    folders = [] if arguments.runs else [entry["folder"] for entry in settings.EXPERIMENTS.values()]
    cache = cache_folder(arguments.cache, folders)
    folder = cache / settings.PROCESSED_FOLDER
    sources, wrong = find_sources(arguments, settings, cache)
    wanted = _wanted(arguments, settings)
    data, experiment, unread = read_all(sources, wanted, folder, arguments.force_reprocess)
    for error in wrong + unread:
        command.complain(command.one_line(error))
    if data:
        tasks = _tasks(data, experiment, arguments, settings)
        figures = make(tasks, arguments.output or cache / settings.FIGURES_FOLDER, folder, arguments, settings)
        if figures and not show(figures, backend) and arguments.no_save_plots:
            command.note("no display to show the figures on, and --no-save-plots: they are lost")
    if data and not arguments.runs and not unread and all(isinstance(error, UsageError) for error in wrong):
        return 0  # of `all` experiments those that were run
    return max(map(_code, wrong + unread), default=0)


def _code(error: Exception) -> int:
    if isinstance(error, FileNotFoundError):
        return EXIT_USAGE
    return getattr(error, "code", EXIT_IO if isinstance(error, OSError) else EXIT_DATA)


def show(figures: Sequence[Callable[[], Any]], backend: str | None) -> bool:
    """Draws figures into windows and waits until they are closed; False where there is nowhere to show them.

    backend
        The one that MPLBACKEND named, which needs no display of ours.
    """
    if not (backend or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    import matplotlib
    from matplotlib import pyplot

    try:
        matplotlib.use(backend or matplotlib.rcsetup._auto_backend_sentinel)
        pyplot.switch_backend(matplotlib.rcParams["backend"])
    except (ImportError, ValueError):
        return False
    if matplotlib.get_backend().lower() in ("agg", "pdf", "svg", "ps", "cairo", "template"):
        return False
    with matplotlib.rc_context(style.STYLE):
        for draw in figures:
            manager, figure = pyplot.figure().canvas.manager, draw()
            manager.canvas.figure = figure
            figure.set_canvas(manager.canvas)
        pyplot.show()
    return True


def main(argv: Sequence[str] | None = None) -> int:
    backend = os.environ.get("MPLBACKEND")  # before figures are made with one of their own
    try:
        settings = read_settings()
    except UsageError as error:
        return command.usage_error(str(error))
    return command.carry_out(_parser(settings), lambda arguments: act(arguments, settings, backend), argv)
