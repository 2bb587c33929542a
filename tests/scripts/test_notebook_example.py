"""notebook_example.py: records found by glob, the forward pass, the figure."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import mnemo_io
import notebook_example
import notebook_record
import numpy as np
import pytest
from notebook_record import GROUP, HEADS, LAYERS, record, write_tree


@pytest.fixture
def pattern(tmp_path):
    write_tree(tmp_path, *record("all_phases"))
    return str(tmp_path / GROUP / "*/*.pkl")


def test_records_are_found_by_glob_and_drawn(pattern, tmp_path, capsys):
    assert notebook_example.main([pattern, "-o", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert mnemo_io.guarded(lambda: notebook_example.main([str(tmp_path / "none*")])) == 74


def test_equal_records_give_equal_bytes(pattern, tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 20\n")
    assert notebook_example.main([pattern, "-o", str(tmp_path / "a.png")]) == 0
    environment = {**os.environ, "MPLBACKEND": "module://not.there", "MATPLOTLIBRC": str(tmp_path)}
    command = [sys.executable, notebook_example.__file__, pattern, "-o", str(tmp_path / "b.png")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_curves_are_those_of_the_current_sequences(pattern):
    (loaded,) = notebook_example.load_records(pattern)
    epochs, means = notebook_example.accuracy_by_group(loaded)
    assert epochs == list(range(8))
    assert means[0, 0] == pytest.approx(np.mean([notebook_record.accuracy_of(0, rank, 0) for rank in (0, 10)]))
    assert means[5, 2] == pytest.approx(notebook_record.accuracy_of(1, 30, 5))
    assert notebook_example.switch_epochs(loaded) == [4]


def loop_logit(state, bits, position):
    """The logit of bit position + 1, one number after another."""
    width = state["ln_f.weight"].shape[0]
    size = width // HEADS
    x = [state["wte.weight"][bit] + state["wpe.weight"][at] for at, bit in enumerate(bits[: position + 1])]
    qkv = [state["c_attn.weight"] @ row + state["c_attn.bias"] for row in x]
    h = np.zeros(width)
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        q = qkv[position][own]
        scores = [math.exp(q @ row[width:][own] / math.sqrt(size)) for row in qkv]
        h[own] = sum(score / sum(scores) * row[2 * width :][own] for score, row in zip(scores, qkv))
    h = (h - h.mean()) / math.sqrt(((h - h.mean()) ** 2).mean() + 1e-5) * state["ln_f.weight"] + state["ln_f.bias"]
    for layer in range(LAYERS):
        hidden = state[f"linear_modules.{layer}.weight"] @ h + state[f"linear_modules.{layer}.bias"]
        h = np.maximum(hidden, 0) + (h if layer else 0)
    z = state["lm_head.weight"] @ h + state["lm_head.bias"]
    return z[1] - z[0]


def test_forward_pass_agrees_with_loops():
    generator = np.random.default_rng(0)
    state = {k: v.astype(np.float64) for k, v in notebook_record.weights(generator, lambda array: array).items()}
    bits = generator.integers(0, 2, (3, 8))
    logits = notebook_example.one_layer_logits(state, bits, HEADS)
    expected = [[loop_logit(state, row, position) for position in range(7)] for row in bits]
    assert logits == pytest.approx(np.array(expected), abs=1e-12)


def test_swap_rows_use_the_old_mlp_and_head(pattern):
    (loaded,) = notebook_example.load_records(pattern)
    rows = notebook_example.swap_rows(loaded, count=4)
    assert list(rows) == ["second sequences", "first sequences", "first, after the swap"]
    state = dict(loaded["model_state_dict"])
    for name, tensor in loaded["mlp_state_dict"]["pre_switch"]["linear_modules"].items():
        state[f"linear_modules.{name}"] = tensor
    for name, tensor in loaded["mlp_state_dict"]["pre_switch"]["lm_head"].items():
        state[f"lm_head.{name}"] = tensor
    bits = np.asarray(loaded["sequences"][0])[::10]
    assert rows["first, after the swap"] == pytest.approx(notebook_example.accuracy_of(state, bits, HEADS))
    loaded["mlp_state_dict"] = {}
    assert notebook_example.swap_rows(loaded) is None
