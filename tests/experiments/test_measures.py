"""Loss by position and completion, as a run writes them, against the losses and accuracies beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine import CONFIG, DONE, Place, make_place, mnemo_io, results

PREFIX, L = 3, 8


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    """A run without and one with everything measured."""
    plain, measured = (make_place(tmp_path_factory.mktemp(name), 600) for name in ("plain", "measured"))
    assert plain.train().returncode == DONE
    options = ["eval.by_position=true", f"eval.completion={{prefix: {PREFIX}}}", "eval.attention=[decorrelation]"]
    assert measured.train("run=tiny", *options).returncode == DONE
    return plain, measured


def test_training_and_scores_are_the_same_without_them(places: tuple[Place, Place]) -> None:
    plain, measured = (results(place.run) for place in places)
    further = {
        name for name in measured if "by_position" in name or "completed" in name or name.startswith("attention/")
    }
    assert set(plain) == set(measured) - further and len(further) == 4 * 4 + 2 + 3
    # `train` is scored by itself there: other blocks, other last bits
    differing = {name for name in plain if plain[name] != measured[name]}
    assert differing <= {"eval/train/loss.npy", "eval/train/accuracy.npy"}


def sets_of(run: Path) -> list[Path]:
    return sorted(path for path in (run / "eval").iterdir())


def test_means_over_positions_are_the_means_of_the_bins(places: tuple[Place, Place]) -> None:
    for folder in sets_of(places[1].run):
        rank, bins = np.load(folder / "rank.npy"), np.load(folder / "by_position_bins.npy")
        assert bins.tolist() == ([[0, 10]] if folder.name == "novel" else [[0, 10], [10, 20]])
        for name in ("loss", "accuracy"):
            scores, by_position = np.load(folder / f"{name}.npy"), np.load(folder / f"by_position_{name}.npy")
            assert by_position.shape == (len(scores), len(bins), L - 1) and by_position.dtype == np.float32
            for i, (first, end) in enumerate(bins):
                within = (rank >= first) & (rank < end)
                assert within.any()
                assert np.allclose(by_position[:, i].mean(-1), scores[:, within].mean(-1), rtol=1e-5)


def test_theory_by_position_has_the_bins_of_the_runs_own_means(places: tuple[Place, Place]) -> None:
    run = places[1].run
    for phase in (0, 1):
        bins = np.load(run / f"eval/phase_{phase}/by_position_bins.npy")
        by_position = np.load(run / f"theory/by_position_{phase}.npy")
        assert by_position.shape == (len(bins), L - 1, 2) and by_position.dtype == np.float64
        per_rank = np.load(run / f"theory/phase_{phase}.npy")
        for i, (first, end) in enumerate(bins):
            assert np.allclose(by_position[i].mean(0), per_rank[first:end].mean(0), rtol=1e-12)


def test_completed_sequences_have_every_later_bit_right(places: tuple[Place, Place]) -> None:
    seen = set()
    for folder in sets_of(places[1].run):
        completed, accuracy = np.load(folder / "completed.npy"), np.load(folder / "accuracy.npy")
        assert completed.shape == accuracy.shape and completed.dtype == np.uint8
        right = accuracy * (L - 1)
        assert np.all(right[completed == 1] > L - PREFIX - 0.5)
        assert np.all(completed[right > L - 1.5] == 1)  # all of them right
        seen |= set(completed.ravel().tolist())
    assert seen == {0, 1}


def test_the_reader_gives_all_of_it(places: tuple[Place, Place]) -> None:
    folder = places[1].run
    run = mnemo_io.read_run(folder)
    assert list(run["by_position"]) == list(run["sets"])
    for name, found in run["by_position"].items():
        assert np.array_equal(found["accuracy"], np.load(folder / f"eval/{name}/by_position_accuracy.npy"))
        assert np.array_equal(found["bins"], np.load(folder / f"eval/{name}/by_position_bins.npy"))
        assert found["position"].tolist() == list(range(1, L))
        assert np.array_equal(run["sets"][name]["completed"], np.load(folder / f"eval/{name}/completed.npy"))
    decorrelation = np.load(folder / "attention/decorrelation.npy")
    assert np.array_equal(run["attention"]["decorrelation"], decorrelation, equal_nan=True)
    assert run["attention"]["step"].tolist() == run["sets"]["train"]["step"].tolist()
    assert mnemo_io.read_run(places[0].run)["by_position"] == mnemo_io.read_run(places[0].run)["attention"] == {}


def test_a_prefix_as_long_as_the_sequence_is_refused(tmp_path: Path) -> None:
    refused = make_place(tmp_path, 20).train("eval.completion={prefix: 8}")
    assert refused.returncode == CONFIG
    assert "eval.completion.prefix: must be less than the length of a sequence (8), got 8" in refused.stderr
