"""Every experiment that is shipped leaves its pickles; in its exported tree the cells of notebooks find their way."""

from __future__ import annotations

import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BINARY, DONE, REPOSITORY, call  # engine puts scripts/ on the path

from mnemo.commands import export_check  # isort: skip

# a grid is in the group of the file that is a point of it
FILES = [path for path in REPOSITORY.glob("configs/**/*.yaml") if not path.stem.endswith("_grid")]
CONFIGS = {str(path.relative_to(REPOSITORY / "configs"))[:-5]: path for path in FILES}
WITHOUT_PICKLES: dict[str, str] = {}  # which leave none, and why
SEQUENCES_ALONE = {"prefix_readout": "the notebooks know no such model"}  # no record: only the sequences file
EVERY_STEP = {"paper/dam_fig9", "paper/dam_retrieval", "dam_fig9_sweep"}  # what the cells of figures 9 and 9b read
K, L, STEPS, EPOCH, SWITCH = 40, 12, 40, 4, 20


def mnemo(*arguments: object) -> str:
    done = call([str(BINARY), *map(str, arguments)])
    assert done.returncode == DONE, done.stdout + done.stderr
    return done.stdout


def kind(name: str) -> str:
    return re.search(r"^model: +\{kind: (\w+)", CONFIGS[name].read_text(), re.MULTILINE)[1]


def tiny(name: str) -> list[str]:
    """Overrides that make an experiment small and keep its shape."""
    changes = [f"data.num_sequences={K}", f"data.length={L}", f"train.steps={STEPS}", f"eval.every={EPOCH}"]
    changes += ["train.batch_size=8", "eval.novel=8", "run=tiny", "threads=1", "device=cpu", "sweep={}"]
    changes += [] if name in EVERY_STEP else ["train.log_every=2"]
    changes += ["model.heads=2"] if kind(name) != "prefix_readout" else []
    changes += ["model.head_dim=4"] if kind(name) in ("one_layer_attention", "gpt") else []
    changes += ["model.layers=2"] if kind(name) == "gpt" else []
    changes += [f"output.epoch_steps={EPOCH}"] if "epoch_steps:" in CONFIGS[name].read_text() else []
    for index, event in enumerate(re.findall(r"^  - \{(.*)\}", CONFIGS[name].read_text(), re.MULTILINE)):
        repeated = {"switch": 2 * EPOCH, "fork_probe": EPOCH, "features": SWITCH}.get(event.split(",")[0][6:])
        changes += [f"events.{index}.every={repeated}"] if "every:" in event else []
        changes += [f"events.{index}.max_steps=5"] if "fork_probe" in event else []
        changes += [f"events.{index}.sequences=8"] if "sequences:" in event else []
    return changes


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The group of each experiment in one tree."""
    root = tmp_path_factory.mktemp("trees")

    def train(name: str) -> Path:
        cache = root / name.replace("/", "_")
        mnemo("train", CONFIGS[name], *tiny(name), "--cache", cache, "--progress", "none")
        return next(cache.glob("*/tiny"))

    with ThreadPoolExecutor(2) as pool:
        runs = dict(zip(CONFIGS, pool.map(train, CONFIGS)))
    has_torch = True
    try:
        import torch  # noqa: F401 (DAM records need it)
    except ImportError:
        has_torch = False
    exported = [run for name, run in runs.items() if has_torch or kind(name) != "dam"]
    mnemo("export", *exported, "--tree", root / "tree")
    return {name: root / "tree" / run.parent.name for name, run in runs.items()}


def visible(folder: Path) -> list[Path]:
    """As os.listdir gives them: in no order."""
    return [folder / name for name in os.listdir(folder)]


# Pickles of run directories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_it_leaves_its_pickles(name: str, tmp_path: Path) -> None:
    plan = mnemo("train", CONFIGS[name], "sweep={}", "--dry-run", "--cache", tmp_path)
    said = re.search(r"^no pickles (.*)$", plan, re.MULTILINE)
    assert (said[1] if said else None) == WITHOUT_PICKLES.get(name)


def test_a_plan_says_why_there_are_none(tmp_path: Path) -> None:
    plan = mnemo("train", CONFIGS["switch"], "eval.every=250", "train.log_every=100", "--dry-run", "--cache", tmp_path)
    assert "\nno pickles the epoch of a record, eval.every = 250, is no multiple of train.log_every (100); set" in plan


# The cells ------------------------------------------------------------------------------------------------------------


def walk(record: dict[str, Any]) -> None:
    """What the cells of transformers read, as they read it; those of one layer alone look into its MLP."""
    args, logs = record["args"], record["logs"]
    one_layer = args["arch"] == "OneLayerAttention"
    assert len(logs) == args["num_iters"] // args["num_iters_per_epoch"] == STEPS // EPOCH
    for epoch, log in enumerate(logs):
        test = log["test_metrics"]
        assert log["epoch"] == epoch and log["num_apppearances"].shape == (args["K"],)
        assert len({len(test[key]) for key in ("accuracy", "logsoftmaxloss", "sequence_rank", "true_rank")}) == 1
        if one_layer:
            probe = test["mlp_probe_metrics"]
            assert [len(probe[key]) for key in ("layer", "accuracy", "num_train", "num_test")] == [4] * 4
            assert all(test[f"probe_novel_sequences_{layer}"] == [] for layer in range(4))
        assert isinstance(log["probe_metrics"]["accuracy"], list) and "num_iters_required" in log["probe_metrics"]
        assert test["length"] == 50 and log["loss_per_appearance"] == log["appearances"] == []
    phases = len(record["sequences"])
    assert [len(starts) for starts in record["switch_start_iter"]] == [args["K"]] * phases
    assert {len(table[0]) for table in record["sequences"]} == {args["len_context"]}
    assert (args["is_resample_tasks"] == "False") == (phases == 1)
    if phases == 2 and one_layer:
        before = record["mlp_state_dict"]["pre_switch"]
        assert set(record["c_attn_state_dict"]["pre_switch"]) == set(before["lm_head"]) == {"weight", "bias"}
        swapped = {f"linear_modules.{name}": tensor for name, tensor in before["linear_modules"].items()}
        assert set(record["model_state_dict"]) == set(record["model"]) > set(swapped)
    assert record["final_test_metrics"]["accuracy"].dtype == np.float32
    assert record["positional_encoding"].shape == (args["len_context"], args["num_heads"] * args["num_hidden_features"])


def walk_dam(record: dict[str, Any], name: str) -> None:
    import torch

    args, logs = record["args"], record["logs"]
    for key in ("A_logits_mean", "B_logits_mean", "A_correlation_offdiag_mean"):
        assert torch.stack([log[key] for log in logs]).shape == (len(logs), args.N)
        assert all(np.ndim(log[f"{key}_mean"]) == 0 for log in logs)
    assert np.isfinite([log["A_sharpness"] for log in logs]).all()
    if name in EVERY_STEP:  # the number of a log is its step
        assert [log["step"] for log in logs] == [step % args.NUM_STEPS for step in range(STEPS)]
    A, train = record["model_state_dict"]["A_logits"], [log for log in logs if log["phase"] == "train"]
    assert torch.allclose(train[-1]["A_logits_mean"], A.mean(-1).mean(-1), atol=1e-6)
    assert args.is_freeze_A == ("BothAB" if "retrieval" in name else "True" if "freeze_A" in name else "LearnAB")


@pytest.mark.parametrize("name", CONFIGS)
def test_cells_walk_through_its_tree(name: str, trees: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    group = trees[name]
    if kind(name) == "dam":
        torch = pytest.importorskip("torch")
        (path,) = visible(group)
        walk_dam(torch.load(path, weights_only=False), name)
    else:
        (folder,) = visible(group)
        files = visible(folder)
        ends = ["_all_sequences"] if name in SEQUENCES_ALONE else ["", "_all_sequences"]
        assert {path.name for path in files} == {f"{folder.name}{end}.pkl" for end in ends}
        for path in files:  # whichever comes first
            record = pickle.loads(path.read_bytes())
            assert set(record) >= {"sequences", "switch_start_iter"}
            if name not in SEQUENCES_ALONE:
                walk(record)
    code = export_check.main([str(group)])
    problems = re.findall(r"^ {7}(.*)", capsys.readouterr().out, re.MULTILINE)
    if kind(name) == "dam" and name not in EVERY_STEP:
        assert code == 65 and [text.split(";")[0] for text in problems] == ["args.NUM_ITERS_PER_LOG: is 2"]
    else:
        assert (code, problems) == (0, [])


def test_rows_and_measures_of_the_published_groups(trees: dict[str, Path]) -> None:
    def record(name: str) -> dict[str, Any]:
        return pickle.loads(next(trees[name].glob("*/*.pkl")).read_bytes())

    groups = {"doresample": "memo_jan20_zipf_onelayerattention_vary_num_hidden_features_num_heads_doresample",
              "switch": "memo_aug2_zipf_onelayerattention_lr_1e-3_swapmlp_eval",
              "swap_mlp": "memo_apr3_zipf_onelayerattention_lr_1e-3_swapmlp_eval"}  # fmt: skip
    assert {name: trees[f"paper/{name}"].name for name in groups} == groups
    sizes = {name: [len(log["test_metrics"]["accuracy"]) for log in record(name)["logs"]]
             for name in ("paper/doresample", "paper/switch", "paper/swap_mlp")}  # fmt: skip
    tenth = K // 10
    assert sizes["paper/doresample"] == [tenth] * 10
    assert sizes["paper/switch"] == sizes["paper/swap_mlp"] == [tenth] * 5 + [2 * tenth] * 5
    for log in record("paper/doresample")["logs"]:
        assert log["test_metrics"]["vertical_bars_metric"].shape == (2, 3, 3)  # s = 0, 5, 10 and t = 1, 6, 11
        assert log["test_metrics"]["decorrelation_metric"].shape == (3, 2, 2)
    probed = record("paper/fork_probe")
    assert probed["args"]["is_probe"] == "True" and probed["args"]["probe_every_iter"] == 1
    assert all(len(log["probe_metrics"]["accuracy"]) > 0 for log in probed["logs"])
