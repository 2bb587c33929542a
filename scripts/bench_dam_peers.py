"""The dense associative memory as users of PyTorch and JAX write it: peers of bench_peers.py.

All take the next-bit loss with clamped probabilities over positions n = 1..L-1, Adam, then push the batch into a ring
of M slots. `counts` forms are told what mnemo knows: how often the memory holds each of the K sequences. Letters: B
rows, L bits, P = L-1 positions, H heads, M slots, K sequences, S = M or K stored ones.
Data: weights {A_logits, B_logits} (1, ...), sequences (K, L), batches (steps, B), memory (M) ids, the oldest first,
precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import bench_steps
import numpy as np

RATE = 1e-2
LOW = 1e-6  # of a clamped probability
ETA = 10.0
FUSED_ALIGNMENT = 8  # columns: a GPU's fused attention takes multiples
Data = dict
Run = bench_steps.Run


def _signs(data: Data) -> np.ndarray:
    return (2 * data["sequences"] - 1).astype(np.float32)


def _causal(length: int) -> np.ndarray:
    """(L, 1, L): 0 where row n may use entry i < n, -inf elsewhere; row 0 is unused and left open."""
    allowed = np.tri(length, k=-1, dtype=bool)
    allowed[0] = True
    return np.where(allowed, 0, -np.inf).astype(np.float32)[:, None]


def _counts(data: Data) -> np.ndarray:
    """(K) how often the memory holds each sequence."""
    return np.bincount(data["memory"], minlength=len(data["sequences"])).astype(np.float32)


# PyTorch --------------------------------------------------------------------------------------------------------------
# State: signs (K, L), causal (L, 1, L), slots (B) of the next batch, and memory (M, L), or ring (M) and counts (K).


def _torch_state(data: Data, device: str, counts: bool) -> list:
    import torch

    signs, ring = (torch.tensor(array, device=device) for array in (_signs(data), data["memory"]))
    fixed = [signs, torch.from_numpy(_causal(signs.shape[1])).to(device)]
    slots = torch.arange(data["batches"].shape[1], device=device)
    if not counts:
        return [*fixed, slots, signs[ring]]
    return [*fixed, slots, ring, torch.from_numpy(_counts(data)).to(device)]


def _torch_push(ids: Any, signs: Any, _: Any, slots: Any, stored: Any, counts: Any = None) -> None:
    """The batch takes the places of the oldest."""
    import torch

    if counts is None:
        stored.index_copy_(0, slots, signs[ids])
    else:
        one = torch.ones((), device=ids.device, dtype=counts.dtype).expand(len(ids))
        counts.index_add_(0, stored[slots], -one).index_add_(0, ids, one)  # whole numbers: exact in any order
        stored.index_copy_(0, slots, ids)
    slots.add_(len(slots)).remainder_(len(stored))


@functools.cache
def _torch_loss(form: str, counts: bool, aligned: bool = False) -> Callable:
    """loss_of(weights, ids, *state): `loop` over positions, `vectorised`: all scores (B, P, S), `sdpa`, `folded`."""
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention

    def loss_of_probability(p, target):
        p = p.clamp(LOW, 1 - LOW)
        return -torch.where(target > 0, p.log(), (1 - p).log()).mean()

    def heads(weights, causal, batch, stored):
        """Queries eta phi_hat (B, P, H) and keys phi (S, H)."""
        a = (weights["A_logits"] + causal).softmax(-1)[1:]
        return ETA * torch.einsum("phi,bi->bph", a, batch), stored @ weights["B_logits"].softmax(-1).T

    def vectorised(query, key, plus, bias):
        weight = (query @ key.T + bias).softmax(-1)  # (B, P, S)
        return torch.einsum("bps,sp->bp", weight, plus)

    def columns(x):
        """Zeros to the right, which change no score."""
        return pad(x, (0, -x.shape[-1] % FUSED_ALIGNMENT)) if aligned else x

    def sdpa(query, key, plus, bias):
        """Positions as heads: values differ between them."""
        keys, values = columns(key).expand(1, query.shape[1], -1, -1), columns(plus.T[..., None])[None]
        mask = bias.expand(len(query), -1) if bias.dim() else None
        p = scaled_dot_product_attention(columns(query).transpose(0, 1)[None], keys, values, attn_mask=mask, scale=1.0)
        return p[0, ..., 0].T

    def folded(query, key, plus, bias):
        """One head for all positions, with the bits of all as values; of each, one is wanted."""
        batch, positions, _ = query.shape
        mask = bias.expand(batch * positions, -1) if bias.dim() else None
        queries, keys, values = (columns(x)[None, None] for x in (query.flatten(0, 1), key, plus))
        p = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=1.0)
        return p[0, 0, :, :positions].unflatten(0, (batch, positions)).diagonal(dim1=1, dim2=2)

    def loop(weights, batch, stored, bias):
        key, total, length = stored @ weights["B_logits"].softmax(-1).T, 0.0, batch.shape[1]
        for n in range(1, length):
            query = ETA * batch[:, :n] @ weights["A_logits"][n, :, :n].softmax(-1).T
            p = (query @ key.T + bias).softmax(-1) @ ((stored[:, n] + 1) / 2)
            total = total + loss_of_probability(p, batch[:, n])
        return total / (length - 1)

    def loss_of(weights, ids, signs, causal, _, memory, slots_of=None):
        stored = signs if counts else memory
        bias = slots_of.log() if counts else torch.zeros((), device=signs.device)
        batch = signs[ids]
        if form == "loop":
            return loop(weights, batch, stored, bias)
        probability = {"vectorised": vectorised, "sdpa": sdpa, "folded": folded}[form]
        p = probability(*heads(weights, causal, batch, stored), (stored[:, 1:] + 1) / 2, bias)
        return loss_of_probability(p, batch[:, 1:])

    return loss_of


def torch_peer(
    data: Data, device: str, form: str, counts: bool = False, compiles: bool = False, captured: bool = False
) -> Run:
    """PyTorch, in one of the forms of _torch_loss."""
    bench_steps.set_up_torch(device, data["precision"])
    loss_of = _torch_loss(form, counts, aligned=device == "cuda")
    state = _torch_state(data, device, counts)
    return bench_steps.torch_train(
        loss_of, data["weights"], data["batches"], state, device, RATE, _torch_push, compiles, captured
    )


# JAX ------------------------------------------------------------------------------------------------------------------


def jax_peer(data: Data, device: str, counts: bool = False) -> Run:
    """JAX: position by position inside a step, so that no (B, P, M) is held."""
    import jax
    import jax.numpy as jnp

    bench_steps.set_up_jax(device, data["precision"])
    capacity = len(data["memory"])

    def loss_of(weights, ids, constants, memory):
        signs, causal = constants
        stored, bias = (signs, jnp.log(memory[2])) if counts else (memory[1], 0)
        a = jax.nn.softmax(weights["A_logits"] + causal)[1:]
        key = stored @ jax.nn.softmax(weights["B_logits"]).T
        batch = signs[ids]

        @jax.checkpoint
        def at_position(a_n, bits, target):
            scores = ETA * (batch @ a_n.T) @ key.T + bias
            p = jnp.clip(jax.nn.softmax(scores) @ ((bits + 1) / 2), LOW, 1 - LOW)
            return -jnp.where(target > 0, jnp.log(p), jnp.log(1 - p)).mean()

        return jax.lax.map(lambda args: at_position(*args), (a, stored[:, 1:].T, batch[:, 1:].T)).mean()

    def push(ids, constants, memory):
        slots = memory[0]
        next_slots = (slots + len(ids)) % capacity
        if not counts:
            return next_slots, memory[1].at[slots].set(constants[0][ids])
        _, ring, held = memory
        return next_slots, ring.at[slots].set(ids), held.at[ring[slots]].add(-1).at[ids].add(1)

    signs, slots = _signs(data), np.arange(data["batches"].shape[1])
    memory = (slots, data["memory"], _counts(data)) if counts else (slots, signs[data["memory"]])
    constants = signs, _causal(signs.shape[1])
    return bench_steps.jax_train(loss_of, data["weights"], data["batches"], constants, device, RATE, memory, push)


FORMS = {
    "torch loop": functools.partial(torch_peer, form="loop"),
    "torch eager": functools.partial(torch_peer, form="vectorised"),
    "torch graph": functools.partial(torch_peer, form="vectorised", captured=True),
    "torch compile": functools.partial(torch_peer, form="vectorised", compiles=True),
    "torch compile graph": functools.partial(torch_peer, form="vectorised", compiles=True, captured=True),
    "torch sdpa": functools.partial(torch_peer, form="sdpa"),
    "torch sdpa graph": functools.partial(torch_peer, form="sdpa", captured=True),
    "torch sdpa folded graph": functools.partial(torch_peer, form="folded", captured=True),
    "jax": jax_peer,
}
# by name: functions of (data, device)
PEERS = {**FORMS, **{f"{name}, counts": functools.partial(form, counts=True) for name, form in FORMS.items()}}
