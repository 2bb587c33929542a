"""The name that notebooks load records by: `utils.CPU_Unpickler(file).load()`. Nothing in the file is run."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnemo.records.pickles import Unpickler


def to_torch(array: np.ndarray) -> Any:
    """A CPU tensor that shares the array's memory; the array itself where torch is not installed."""
    try:
        import torch
    except ImportError:
        return array
    return torch.from_numpy(array)


class CPU_Unpickler(Unpickler):  # noqa: N801 (notebooks spell it so)
    """Reads a record that was written on any device: tensors come to the CPU, and only allow-listed names are accepted.

    Parameters
    ----------
    file
        A record opened in binary mode.

    Raises
    ------
    ValueError
        For anything that is no plain data.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file, tensor=to_torch)
