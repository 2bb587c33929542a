"""The table of figures: what each is made from, how it is drawn, and what it is expected to show.

`full` configurations are those of the published figures, `small` ones their CPU-size twins, of which the shape is
expected (order, direction, ceiling) and not the number. Hours are estimates for one H100, see `HOURS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mnemo import engine
from mnemo.errors import UsageError
from mnemo.expectations import Expectation, Verdict, judge_all
from mnemo.figures import draft, memory, style
from mnemo.figures.rows import Drawn
from mnemo.runs import Run

HOURS = (
    "an estimate, not measured: one layer by the bytes and operations of its kernels on an H100 (ARCHITECTURE.md: "
    "7.0 ms a step at C = 1152, and as the square of the width), gpt at 30 TFLOP/s in float32; evaluations apart"
)


class Figure(NamedTuple):
    """A figure: its configurations, in the order in which `draw` takes their runs; what is expected of both."""

    name: str
    title: str
    full: tuple[str, ...]
    small: tuple[str, ...]
    draw: Callable[[Sequence[Sequence[Run]], bool], Drawn]
    expected_full: tuple[Expectation, ...]
    expected_small: tuple[Expectation, ...]
    gpu_hours: float

    def configurations(self, small: bool) -> tuple[str, ...]:
        return self.small if small else self.full

    def expectations(self, small: bool) -> tuple[Expectation, ...]:
        return self.expected_small if small else self.expected_full


class Result(NamedTuple):
    """A figure that was made: its file, and what came of each expectation."""

    path: Path
    verdicts: list[Verdict]


def _near(key: str, what: str, value: float, tolerance: float, source: str) -> Expectation:
    return Expectation(key, what, "near", value, tolerance, source)


def _at_most(key: str, what: str, value: float, tolerance: float, source: str) -> Expectation:
    return Expectation(key, what, "at most", value, tolerance, source)


def _at_least(key: str, what: str, value: float, tolerance: float, source: str) -> Expectation:
    return Expectation(key, what, "at least", value, tolerance, source)


def _above(key: str, what: str, source: str, value: float = 0.0) -> Expectation:
    return Expectation(key, what, "above", value, source=source)


def _below(key: str, what: str, source: str, value: float = 0.0) -> Expectation:
    return Expectation(key, what, "below", value, source=source)


def _rises(key: str, what: str, tolerance: float, source: str) -> Expectation:
    return Expectation(key, what, "rises", tolerance=tolerance, source=source)


def _falls(key: str, what: str, tolerance: float, source: str) -> Expectation:
    return Expectation(key, what, "falls", tolerance=tolerance, source=source)


NOTEBOOK, MATHS7, THEORY, SHAPE = "the draft's figure", "MATHS 7", "the Bayes predictor", "shape of the draft's figure"
LAW, OWN = "what must hold of any sound run", "measured here first; the draft has no such figure"
BY_SIZE = _at_most("over_ceiling", "highest accuracy over the Bayes ceiling", 0.0, 0.01, THEORY)
_POWER_LAW = (_below("slope", "slope of log presentations over log rank", NOTEBOOK + " 2"),)
_SWITCH_SHAPE = (
    _falls("plateaus", "accuracy before the switch, by bin of ranks", 0.005, SHAPE),
    _near("right_after", "accuracy of the first bin right after the switch", 0.5, 0.03, MATHS7),
    _above("gain", "mean accuracy after the switch over that before", MATHS7),
    BY_SIZE._replace(what="accuracy of a bin over its Bayes ceiling", tolerance=0.005),
)
_SWAP_SHAPE = (
    _near("first", "top ten of the first sequences, at the end", 0.5, 0.06, NOTEBOOK + " 6"),
    _above("recovered", "what the old MLP and head bring back of it", MATHS7, 0.02),
)
_MEMORY_FULL = tuple(
    _near(
        f"end_{heads}", f"accuracy of the last {draft.BLOCK} steps before the switch, H = {heads}", value, 0.03, MATHS7
    )
    for heads, value in ((1, 0.56), (5, 0.67), (10, 0.80), (30, 0.92), (100, 0.91))
)
_MEMORY_GAINS = tuple(
    _above(f"gain_{heads}", f"second over first phase after 1,000 steps, H = {heads}", MATHS7)
    for heads in (5, 10, 30, 100)
)
_RETRIEVAL_FULL = tuple(
    _near(f"{moment}_{heads}", f"top-1 {moment} the switch, H = {heads}", value, tolerance, MATHS7)
    for heads, before, after in ((5, 0.20, 0.14), (10, 0.66, 0.565), (30, 0.83, 0.83), (100, 0.838, 0.828))
    for moment, value, tolerance in (("before", before, 0.05), ("after", after, 0.05))
)
_CLOCK = (
    _above("growth", "loss long after a presentation over that soon after, 10-99 presentations", LAW),
    _falls("repeated", "loss right after a presentation, by decade of presentations from 10 on", 0.02, LAW),
    _above("forgotten", "growth of the loss of the best known after they were replaced", MATHS7, 0.1),
    _at_least("after_switch", "loss of the best known at the end (ln 2 = chance)", 0.693, 0.02, MATHS7),
)
_TRANSPLANT = (
    _near("not_put_back", "everything put back, over right before the switch", 0.0, 1e-4, LAW),
    _above("mlp_gap", "least with the old MLP over most without it", OWN),
    _at_most("novel", "largest deviation of novel sequences from chance", 0.0, 0.03, LAW),
)
_BITS = (
    _rises("bits_by_decade", "most bits, by decade of parameters", 0.0, SHAPE + " 4"),
    _at_most("share_of_bayes", "most bits, as a share of the Bayes predictor's", 1.0, 0.01, THEORY),
    _at_most("fewest_parameters", "share that the smallest model stores", 0.05, 0.05, SHAPE + " 4"),
)
_PROBE = (
    _at_most("held_out_bias", "held-out next bits: deviation from 1/2", 0.0, 0.05, LAW),
    _above("fork_speedup", "steps of the first over those of the last fork probe", NOTEBOOK + " 7", 1.0),
    _above("sequence_gain", "sequences: held-out accuracy at the end over the begin", NOTEBOOK + " 7"),
    _above("next_bit_gain", "next bits: fitted accuracy at the end over the begin", NOTEBOOK + " 7"),
)
_SEPARABLE = tuple(
    _above(key, f"{what}: correlation with fork probe", NOTEBOOK + " 7")
    for key, what in (
        ("sequence_0", "which sequence, of what enters the MLP"),
        ("sequence_3", "which sequence, last layer"),
        ("next_bit_0", "next bit, of what enters the MLP"),
        ("next_bit_3", "next bit, last layer"),
    )
)
_OVERLAY = (
    _above("memory_lead", "memory over transformer, mean of first phase", OWN),
    _above("transformer_gain", "second over first phase, transformer", MATHS7),
    _above("memory_gain", "second over first phase, memory", MATHS7),
    BY_SIZE._replace(what="highest end over its Bayes ceiling"),
)
_FIT = (
    _at_most("nearest", "distance of the nearest", 0.1, 0.0, OWN),
    _above("spread", "distance of the farthest over the nearest", OWN, 0.01),
    _at_most("on_edge", "settings of the nearest on the edge of the grid", 0.0, 0.0, "a grid that is wide enough"),
)
_BARS = (
    _above("bars", "correlation of a head's rows, mean over heads", NOTEBOOK + " 8"),
    _above("bars_best", "the same of the most striped head", NOTEBOOK + " 8", 0.3),
)

FIGURES = (
    Figure(
        "1",
        "what parameters buy: loss, accuracy, largest learned rank",
        ("paper/gpt_params.yaml",),
        ("gpt_params.yaml",),
        draft.parameters_figure,
        (
            _near(
                "accuracy_6e6",
                "accuracy of the first 1000 evaluated ranks at 6.3e6 parameters",
                0.935,
                0.02,
                NOTEBOOK + " 1",
            ),
            _at_least(
                "stuck_above_9e6",
                "share of runs that stay at chance from 9.5e6 parameters on",
                0.5,
                0.0,
                NOTEBOOK + " 1",
            ),
            _at_least("loss_over_floor", "least train loss over the Bayes floor", 0.0, 0.01, THEORY),
        ),
        (
            _rises("accuracy_by_parameters", "accuracy by parameters", 0.03, SHAPE + " 1"),
            _rises("rank_by_parameters", "largest learned rank by parameters", 2, SHAPE + " 1"),
            _at_least("loss_over_floor", "least train loss over the Bayes floor", 0.0, 0.05, THEORY),
        ),
        6,
    ),
    Figure(
        "2",
        "presentations until a rank is learned, against rank",
        ("paper/gpt_params.yaml",),
        ("gpt_params.yaml",),
        draft.presentations_figure,
        _POWER_LAW,
        _POWER_LAW,
        6,
    ),
    Figure(
        "3",
        "accuracy of a gpt by rank before and after all sequences are replaced",
        ("paper/gpt_switch.yaml",),
        ("gpt_switch.yaml",),
        draft.switch_figure,
        _SWITCH_SHAPE,
        _SWITCH_SHAPE,
        2.3,
    ),
    Figure(
        "4",
        "train loss against parameters at fixed width, the MLP's width varied",
        ("paper/width_frontier.yaml",),
        ("width_frontier.yaml",),
        draft.frontier_figure,
        (
            _near("frontier_1e3", "frontier at 1e3 parameters", 0.58, 0.04, NOTEBOOK + " 4"),
            _near("frontier_1e7", "frontier at 1e7 parameters", 0.205, 0.03, NOTEBOOK + " 4"),
            _near("worst", "runs that stay at chance", 0.693, 0.01, NOTEBOOK + " 4"),
        ),
        (
            _falls("by_width", "least loss of each width C", 0.01, SHAPE + " 4"),
            _near("worst", "the worst run stays at chance", 0.693, 0.02, SHAPE + " 4"),
            _at_least("over_floor", "the best run over the Bayes floor", 0.0, 0.02, THEORY),
        ),
        4.4,
    ),
    Figure(
        "5",
        "accuracy of one layer by rank before and after all sequences are replaced",
        ("paper/doresample.yaml",),
        ("switch.yaml",),
        draft.switch_figure,
        (
            *(
                _near(
                    f"plateau_{index}", f"plateau of ranks [{index},000, {index + 1},000)", value, 0.01, NOTEBOOK + " 5"
                )
                for index, value in enumerate((0.955, 0.943, 0.938))
            ),
            *_SWITCH_SHAPE,
        ),
        _SWITCH_SHAPE,
        0.15,
    ),
    Figure(
        "6",
        "swap test: is the memory in the MLP?",
        ("paper/swap_mlp_grid.yaml",),
        ("swap_mlp_sweep.yaml",),
        draft.swap_figure,
        (
            *_SWAP_SHAPE,
            _near(
                "swapped_1e7",
                "most of the top ten ranks after a swap, 1e7 to 4e7 parameters",
                0.8,
                0.1,
                NOTEBOOK + " 6",
            ),
        ),
        (
            *_SWAP_SHAPE,
            _above("second", "top ten of the second sequences, at the end", MATHS7, 0.8),
            _rises("swapped_by_parameters", "top hundred after the swap, by parameters", 0.03, SHAPE + " 6"),
        ),
        27,
    ),
    Figure(
        "7",
        "linear separability of novel sequences against a fork probe",
        ("paper/fork_probe.yaml",),
        ("fork_probe.yaml",),
        memory.separability_figure,
        _SEPARABLE,
        _SEPARABLE,
        0.7,
    ),
    Figure(
        "8",
        "attention maps, head by sequence",
        ("paper/attention_maps.yaml",),
        ("attention_maps.yaml",),
        draft.attention_figure,
        _BARS,
        _BARS,
        0.08,
    ),
    Figure(
        "9",
        "an associative memory over a switch, by heads",
        ("dam_fig9_sweep.yaml",),
        ("dam_fig9_small.yaml",),
        draft.memory_figure,
        (
            *_MEMORY_FULL,
            _at_most("highest", "highest accuracy of a bin", 0.929, 0.01, MATHS7),
            *_MEMORY_GAINS,
        ),
        (
            _rises("end_by_heads", "accuracy before the switch, by heads", 0.01, MATHS7),
            _above("gain_30", "second over first phase soon after its begin, H = 30", MATHS7),
            _above("gain_5", "the same, H = 5", MATHS7),
            BY_SIZE._replace(what="highest accuracy of a bin over the Bayes ceiling"),
        ),
        0,
    ),
    Figure(
        "9b",
        "naming sequences with heads frozen at the switch",
        ("paper/dam_retrieval_sweep.yaml",),
        ("dam_retrieval_sweep.yaml",),
        draft.retrieval_figure,
        (
            *_RETRIEVAL_FULL,
            _at_most("highest", "highest top-1 of a bin", 0.839, 0.015, MATHS7),
        ),
        (
            _rises("before_by_heads", "top-1 before the switch, by heads", 0.0, MATHS7),
            _above("after_30", "top-1 after it with frozen heads, H = 30", MATHS7, 0.5),
            _at_most("loss_30", "what the switch costs, H = 30", 0.0, 0.05, MATHS7),
            BY_SIZE._replace(what="highest top-1 of a bin over the Bayes ceiling", tolerance=0.02),
        ),
        0,
    ),
    Figure(
        "clock",
        "the forgetting clock: loss against steps since the last presentation",
        ("paper/switch.yaml",),
        ("forgetting_clock.yaml",),
        memory.clock_figure,
        _CLOCK,
        _CLOCK,
        0.15,
    ),
    Figure(
        "transplant",
        "every subset of groups of weights from before the switch",
        ("paper/transplant.yaml",),
        ("transplant.yaml",),
        memory.transplant_figure,
        _TRANSPLANT,
        _TRANSPLANT,
        0.08,
    ),
    Figure(
        "bits",
        "stored bits against parameters",
        ("paper/width_frontier.yaml",),
        ("width_frontier.yaml",),
        memory.bits_figure,
        _BITS,
        _BITS,
        4.4,
    ),
    Figure(
        "probe",
        "linear probes and fork probes over training",
        ("paper/fork_probe.yaml",),
        ("fork_probe.yaml",),
        memory.probe_figure,
        _PROBE,
        _PROBE,
        0.7,
    ),
    Figure(
        "overlay",
        "a transformer over an associative memory on the same draws",
        ("compare_transformer.yaml", "compare_dam.yaml"),
        ("quickstart.yaml", "dam_quickstart.yaml"),
        memory.overlay_figure,
        _OVERLAY,
        _OVERLAY,
        0,
    ),
    Figure(
        "fit",
        "the associative memory that learns most like a transformer",
        ("compare_transformer.yaml", "paper/dam_fit.yaml"),
        ("quickstart.yaml", "dam_fit.yaml"),
        memory.fit_figure,
        _FIT,
        _FIT,
        0,
    ),
)


def names() -> list[str]:
    return [figure.name for figure in FIGURES]


def figure(name: str) -> Figure:
    """The entry of a figure; UsageError names those that there are."""
    found = next((entry for entry in FIGURES if entry.name == name), None)
    if found is None:
        raise UsageError(f"no figure {name!r}; there are: {', '.join(names())}")
    return found


def hours_text(entry: Figure) -> str:
    """What the full size takes."""
    return "minutes to hours of CPU cores, no GPU" if entry.gpu_hours == 0 else f"about {entry.gpu_hours:g} GPU hours"


def make(entry: Figure, small: bool, cache: Path, output: Path, options: Sequence[str] = ()) -> Result:
    """Trains what is missing, draws, and judges.

    Parameters
    ----------
    cache
        Where runs are and go.
    output
        .png, .pdf or .svg; beside it a .csv of what is plotted.
    options
        For `mnemo sweep`.
    """
    style.check_format(output)
    groups = [engine.carry_out(engine.configuration(name), cache, options) for name in entry.configurations(small)]
    return draw(entry, small, groups, output)


def draw(entry: Figure, small: bool, groups: Sequence[Sequence[Run]], output: Path) -> Result:
    """Draws runs that are there, and judges."""
    with style.matplotlib_style():
        drawn = entry.draw(groups, small)
        output.parent.mkdir(parents=True, exist_ok=True)
        style.save(drawn.figure, output, [run for runs in groups for run in runs], drawn.table)
    return Result(output, judge_all(entry.expectations(small), drawn.measured))
