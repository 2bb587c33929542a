"""The predictor that knows all sequences and how often each is drawn: floors of the loss, ceilings of the accuracy.

The engine writes the same numbers to theory/; this exact form in NumPy serves runs that were imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TIE = 1e-12  # |P - 1/2| below it counts as half right


def zipf(num_sequences: int, exponent: float) -> np.ndarray:
    """Probability of each rank, (K,): (a + 1)^-s / sum."""
    weights = np.arange(1.0, num_sequences + 1) ** -exponent
    return weights / weights.sum()


def limits(bits: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss (nats) and accuracy of each sequence under the Bayes predictor, (K,) each, over bits 2..L.

    P(1 | prefix) = mass of the sequences with this prefix and then 1 / mass of the sequences with this prefix.

    Parameters
    ----------
    bits
        (K, L) of 0 and 1.
    p
        (K,) probabilities.
    """
    num_sequences, length = bits.shape
    prefix = bits[:, 0].astype(np.int64)  # a number for each distinct prefix
    loss, right = np.zeros(num_sequences), np.zeros(num_sequences)
    for position in range(1, length):
        _, prefix = np.unique(prefix, return_inverse=True)
        following = 2 * prefix + bits[:, position]
        mass = np.bincount(following, p, 2 * num_sequences)
        chosen = mass[following] / (mass[following] + mass[following ^ 1])
        loss -= np.log(chosen)
        right += np.where(np.abs(chosen - 0.5) < TIE, 0.5, chosen > 0.5)
        prefix = following
    return loss / (length - 1), right / (length - 1)


def theory(bits: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The table (K, 2) of theory/phase_<k>.npy, and the scalars of theory.json that follow from it."""
    floor, ceiling = limits(bits, p)
    scalars = {"loss_floor": p @ floor, "accuracy_ceiling": p @ ceiling, "accuracy_ceiling_unweighted": ceiling.mean()}
    return np.stack([floor, ceiling], axis=1), {name: float(value) for name, value in scalars.items()}
