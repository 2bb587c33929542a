"""The dense associative memory as PyTorch and JAX users write it: peers of bench_peers.py.

All take the next-bit loss with clamped probabilities over positions n = 1..L-1, Adam, then push the batch into a ring
of M slots. `counts` forms are told what mnemo knows: how often the memory holds each of the K sequences. Letters: B
rows, L bits, P = L-1 positions, H heads, M slots, K sequences.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

ADAM = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
LOW = 1e-6  # of a clamped probability
ETA = 10.0
Data = dict  # weights {A_logits, B_logits}, sequences (K, L), batches (steps, B), memory (M) ids, the oldest first
Run = Callable[[int], list]


def _signs(data: Data) -> np.ndarray:
    return (2 * data["sequences"] - 1).astype(np.float32)


def _causal(length: int) -> np.ndarray:
    """(L, 1, L): 0 where row n may use entry i < n, -inf elsewhere; row 0 is unused and left open."""
    allowed = np.tri(length, k=-1, dtype=bool)
    allowed[0] = True
    return np.where(allowed, 0, -np.inf).astype(np.float32)[:, None]


class _Ring:
    """Ids in the M slots, and how often each of the K sequences is there."""

    def __init__(self, data: Data):
        self.ids, self.next = data["memory"].copy(), 0
        self.counts = np.bincount(self.ids, minlength=len(data["sequences"]))

    def push(self, batch: np.ndarray) -> np.ndarray:
        """The slots that the batch goes to."""
        slots = (self.next + np.arange(len(batch))) % len(self.ids)
        np.subtract.at(self.counts, self.ids[slots], 1)
        np.add.at(self.counts, batch, 1)
        self.ids[slots], self.next = batch, int(slots[-1] + 1) % len(self.ids)
        return slots


def torch_peer(data: Data, device: str, form: str, counts: bool = False) -> Run:
    """PyTorch: `loop` over positions, `vectorised` with all scores (B, P, M) at once, `sdpa`, or `compiled`."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    signs = torch.from_numpy(_signs(data)).to(device)
    causal = torch.from_numpy(_causal(signs.shape[1])).to(device)
    eta, length, ring = ETA, signs.shape[1], _Ring(data)
    memory = signs if counts else signs[torch.from_numpy(ring.ids).to(device)]
    weights = [
        torch.tensor(data["weights"][name], device=device, requires_grad=True) for name in ("A_logits", "B_logits")
    ]
    adam = torch.optim.Adam(weights, lr=ADAM["lr"], eps=ADAM["eps"], fused=True)

    def loss_of_probability(p, target):
        p = p.clamp(LOW, 1 - LOW)
        return -torch.where(target > 0, p.log(), (1 - p).log()).mean()

    def heads(a_logits, b_logits, batch, memory):
        """Queries eta phi_hat (B, P, H) and keys phi (M, H)."""
        a = (a_logits + causal).softmax(-1)[1:]
        return eta * torch.einsum("phi,bi->bph", a, batch), memory @ b_logits.softmax(-1).T

    def vectorised(a_logits, b_logits, batch, memory, bias):
        query, key = heads(a_logits, b_logits, batch, memory)
        weight = (query @ key.T + bias).softmax(-1)  # (B, P, M)
        p = torch.einsum("bpm,mp->bp", weight, (memory[:, 1:] + 1) / 2)
        return loss_of_probability(p, batch[:, 1:])

    def sdpa(a_logits, b_logits, batch, memory, bias):
        query, key = heads(a_logits, b_logits, batch, memory)
        value = ((memory[:, 1:] + 1) / 2).T[..., None]  # (P, M, 1)
        keys = key.expand(length - 1, -1, -1)
        p = scaled_dot_product_attention(query.transpose(0, 1), keys, value, attn_mask=bias, scale=1.0)
        return loss_of_probability(p[..., 0].T, batch[:, 1:])

    def loop(a_logits, b_logits, batch, memory, bias):
        key, total = memory @ b_logits.softmax(-1).T, 0.0
        for n in range(1, length):
            query = eta * batch[:, :n] @ a_logits[n, :, :n].softmax(-1).T
            p = (query @ key.T + bias).softmax(-1) @ ((memory[:, n] + 1) / 2)
            total = total + loss_of_probability(p, batch[:, n])
        return total / (length - 1)

    loss_of = {"loop": loop, "vectorised": vectorised, "sdpa": sdpa, "compiled": torch.compile(vectorised)}[form]
    done, no_bias = 0, torch.zeros((), device=device)

    def run(steps: int) -> list[float]:
        nonlocal done
        losses = []
        for _ in range(steps):
            ids = data["batches"][done % len(data["batches"])]
            batch = signs[torch.from_numpy(ids).to(device)]
            bias = torch.from_numpy(ring.counts.astype(np.float32)).to(device).log() if counts else no_bias
            loss = loss_of(*weights, batch, memory, bias if form != "sdpa" or counts else None)
            adam.zero_grad()
            loss.backward()
            adam.step()
            slots = ring.push(ids)
            if not counts:
                memory[torch.from_numpy(slots).to(device)] = batch
            losses.append(loss.detach())
            done += 1
        return torch.stack(losses).tolist()

    return run


def jax_peer(data: Data, counts: bool = False) -> Run:
    """JAX: one jitted step, position by position inside, so that no (B, P, M) is held."""
    import jax
    import jax.numpy as jnp

    signs, causal = jnp.asarray(_signs(data)), jnp.asarray(_causal(data["sequences"].shape[1]))
    eta, ring = ETA, _Ring(data)
    weights = {name: jnp.asarray(array) for name, array in data["weights"].items()}
    moments = (jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights))
    memory = signs if counts else signs[ring.ids]

    def loss_of(weights, batch, memory, bias):
        a = jax.nn.softmax(weights["A_logits"] + causal)[1:]
        key = memory @ jax.nn.softmax(weights["B_logits"]).T

        @jax.checkpoint
        def at_position(a_n, stored, target):
            scores = eta * (batch @ a_n.T) @ key.T + bias
            p = jnp.clip(jax.nn.softmax(scores) @ ((stored + 1) / 2), LOW, 1 - LOW)
            return -jnp.where(target > 0, jnp.log(p), jnp.log(1 - p)).mean()

        return jax.lax.map(lambda args: at_position(*args), (a, memory[:, 1:].T, batch[:, 1:].T)).mean()

    @jax.jit
    def step(weights, moments, n, ids, memory, slots, bias):
        batch = signs[ids]
        loss, gradients = jax.value_and_grad(loss_of)(weights, batch, memory, bias)
        first = jax.tree.map(lambda m, g: ADAM["beta1"] * m + (1 - ADAM["beta1"]) * g, moments[0], gradients)
        second = jax.tree.map(lambda v, g: ADAM["beta2"] * v + (1 - ADAM["beta2"]) * g * g, moments[1], gradients)
        correction1, correction2 = 1 - ADAM["beta1"] ** n, 1 - ADAM["beta2"] ** n
        weights = jax.tree.map(
            lambda w, m, v: w - ADAM["lr"] * (m / correction1) / (jnp.sqrt(v / correction2) + ADAM["eps"]),
            weights, first, second,
        )  # fmt: skip
        return weights, (first, second), loss, memory if counts else memory.at[slots].set(batch)

    done = 0

    def run(steps: int) -> list[float]:
        nonlocal weights, moments, memory, done
        losses = []
        for _ in range(steps):
            ids = data["batches"][done % len(data["batches"])]
            with np.errstate(divide="ignore"):
                bias = np.log(ring.counts.astype(np.float32)) if counts else np.float32(0)
            done += 1
            arguments = (np.float32(done), ids, memory, ring.push(ids), bias)
            weights, moments, loss, memory = step(weights, moments, *arguments)
            losses.append(loss)
        return [float(loss) for loss in losses]

    return run


PEERS = {
    "torch loop": lambda data, heads, device: torch_peer(data, device, "loop"),
    "torch eager": lambda data, heads, device: torch_peer(data, device, "vectorised"),
    "torch compile": lambda data, heads, device: torch_peer(data, device, "compiled"),
    "torch sdpa": lambda data, heads, device: torch_peer(data, device, "sdpa"),
    "jax": lambda data, heads, device: jax_peer(data),
    "torch eager, counts": lambda data, heads, device: torch_peer(data, device, "vectorised", counts=True),
    "torch compile, counts": lambda data, heads, device: torch_peer(data, device, "compiled", counts=True),
    "torch sdpa, counts": lambda data, heads, device: torch_peer(data, device, "sdpa", counts=True),
    "jax, counts": lambda data, heads, device: jax_peer(data, counts=True),
}
