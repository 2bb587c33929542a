"""The one-layer transformer as users of PyTorch and JAX write it: peers of bench_peers.py, for training and evaluation.

Letters: B rows, L bits, C width, R replicas. Data: weights {name: (R, ...)}, sequences (K, L), batches (steps, B) or
(steps, R, B), heads, trains, precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import bench_steps
import numpy as np

RATE = 1e-3
EVALUATED_ROWS = {"cpu": 500, "cuda": 10_000}  # of a block: larger and smaller ones are slower for the peers on a CPU
Data = dict
Run = bench_steps.Run


def num_layers(weights: dict) -> int:
    """Of the MLP."""
    return sum(name.startswith("linear_modules") for name in weights) // 2


def num_replicas(data: Data) -> int:
    return len(next(iter(data["weights"].values())))


def torch_attention(batched_attention: bool) -> Callable:
    """Causal attention(q, k, v), (B, heads, L, F) each.

    Under vmap fused attention goes one by one: on a GPU products over all (`batched_attention`) are faster.
    """
    import torch
    import torch.nn.functional as nn

    def attention(q: Any, k: Any, v: Any) -> Any:
        if not batched_attention:
            return nn.scaled_dot_product_attention(q, k, v, is_causal=True)
        later = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.masked_fill(later, float("-inf")).softmax(-1) @ v

    return attention


def torch_next_bit(logits: Callable) -> Callable:
    """Mean loss of the next bit, loss_of(weights, ids, sequences), of logits(weights, bits)."""
    import torch.nn.functional as nn

    def loss_of(weights: dict, ids: Any, sequences: Any) -> Any:
        bits = sequences[ids]
        return nn.binary_cross_entropy_with_logits(logits(weights, bits[:, :-1]), bits[:, 1:].float())

    return loss_of


@functools.cache
def torch_loss(heads: int, batched_attention: bool = False) -> Callable:
    """Mean loss of the next bit: loss_of(weights, ids, sequences)."""
    import torch.nn.functional as nn

    attention = torch_attention(batched_attention)

    def logits(weights: dict, bits: Any) -> Any:
        batch, length = bits.shape
        x = nn.embedding(bits, weights["wte.weight"]) + weights["wpe.weight"][:length]
        qkv = nn.linear(x, weights["c_attn.weight"], weights["c_attn.bias"])
        q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        o = attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
        h = nn.layer_norm(o, o.shape[-1:], weights["ln_f.weight"], weights["ln_f.bias"], 1e-5)
        for j in range(num_layers(weights)):
            layer = nn.linear(h, weights[f"linear_modules.{j}.weight"], weights[f"linear_modules.{j}.bias"]).relu()
            h = layer + h if j else layer
        z = nn.linear(h, weights["lm_head.weight"], weights["lm_head.bias"])
        return z[..., 1] - z[..., 0]

    return torch_next_bit(logits)


def torch_peer(
    data: Data,
    device: str,
    rate: float | Sequence[float] = RATE,
    compiles: bool = False,
    captured: bool = False,
    loss: Callable = torch_loss,
) -> Run:
    """PyTorch: all replicas as one (bench_steps.torch_train), or the evaluation of one. `loss`: as torch_loss."""
    import torch

    bench_steps.set_up_torch(device, data["precision"])
    sequences = torch.from_numpy(data["sequences"]).to(device)
    packed = num_replicas(data) > 1
    loss_of = loss(data["heads"], batched_attention=packed and device == "cuda")
    if data["trains"]:
        return bench_steps.torch_train(
            loss_of, data["weights"], data["batches"], [sequences], device, rate, None, compiles, captured
        )
    weights = {name: torch.tensor(array[0], device=device) for name, array in data["weights"].items()}
    blocks = torch.from_numpy(data["batches"][0]).to(device).split(EVALUATED_ROWS[device])
    block_loss = bench_steps.compiled(loss_of, device, captured) if compiles else loss_of
    bench_steps.hold_still(device, [*weights.values(), sequences] if compiles else [])

    def body() -> Any:
        return torch.stack([block_loss(weights, rows, sequences).clone() for rows in blocks]).mean()

    def run(times: int) -> list[float]:
        for _ in range(times):
            with torch.inference_mode(not compiles), torch.no_grad():
                loss = evaluate()
        return [float(loss)]

    with torch.no_grad():
        evaluate = bench_steps.capture(body, device, lambda: None) if captured else body
    return run


def in_turn(make: Callable[..., Run], data: Data, device: str) -> Run:
    """The replicas one after another, each as if it were alone."""
    own_ids = data["batches"].ndim == 3
    runs = []
    for r in range(num_replicas(data)):
        weights = {name: array[r : r + 1] for name, array in data["weights"].items()}
        batches = np.ascontiguousarray(data["batches"][:, r]) if own_ids else data["batches"]
        runs.append(make({**data, "weights": weights, "batches": batches}, device))
    return lambda steps: np.transpose([run(steps) for run in runs]).tolist()


def jax_attention(qkv: Any, heads: int) -> Any:
    """Causal attention, (B, L, C), of queries, keys and values beside each other, (B, L, 3C)."""
    import jax
    import jax.numpy as jnp

    batch, length, _ = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, -1), 2, 0)
    scores = jnp.einsum("bihf,bjhf->bhij", q, k) / np.sqrt(q.shape[-1]).astype(np.float32)
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    return jnp.einsum("bhij,bjhf->bihf", jax.nn.softmax(scores), v).reshape(batch, length, -1)


def jax_next_bit(logits: Callable) -> Callable:
    """As torch_next_bit: loss_of(weights, ids, sequences, memory)."""
    import jax.numpy as jnp

    def loss_of(weights, ids, sequences, _):
        bits = sequences[ids]
        logit, targets = logits(weights, bits[:, :-1]), bits[:, 1:]
        return (jnp.maximum(logit, 0) - targets * logit + jnp.log1p(jnp.exp(-jnp.abs(logit)))).mean()

    return loss_of


def jax_loss(heads: int) -> Callable:
    """As torch_loss: loss_of(weights, ids, sequences, memory)."""
    import jax

    def logits(weights, bits):
        x = weights["wte.weight"][bits] + weights["wpe.weight"][: bits.shape[1]]
        o = jax_attention(x @ weights["c_attn.weight"].T + weights["c_attn.bias"], heads)
        centred = o - o.mean(-1, keepdims=True)
        h = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        h = h * weights["ln_f.weight"] + weights["ln_f.bias"]
        for j in range(num_layers(weights)):
            layer = jax.nn.relu(h @ weights[f"linear_modules.{j}.weight"].T + weights[f"linear_modules.{j}.bias"])
            h = layer + h if j else layer
        z = h @ weights["lm_head.weight"].T + weights["lm_head.bias"]
        return z[..., 1] - z[..., 0]

    return jax_next_bit(logits)


def jax_peer(data: Data, device: str, rate: float | Sequence[float] = RATE, loss: Callable = jax_loss) -> Run:
    """JAX: all replicas as one (bench_steps.jax_train), or the evaluation of one, jit of a map over blocks."""
    import jax
    import jax.numpy as jnp

    bench_steps.set_up_jax(device, data["precision"])
    loss_of = loss(data["heads"])
    if data["trains"]:
        return bench_steps.jax_train(loss_of, data["weights"], data["batches"], data["sequences"], device, rate)
    weights = {name: jnp.asarray(array[0]) for name, array in data["weights"].items()}
    rows = data["batches"][0]
    blocks = jnp.asarray(rows.reshape(-1, min(len(rows), EVALUATED_ROWS[device])))
    sequences = jnp.asarray(data["sequences"])

    @jax.jit
    def evaluate(weights, blocks, sequences):
        return jax.lax.map(lambda rows: loss_of(weights, rows, sequences, ()), blocks).mean()

    def run(times: int) -> list[float]:
        for _ in range(times):
            loss = evaluate(weights, blocks, sequences).block_until_ready()
        return [float(loss)]

    return run


def peers(of_torch: Callable, of_jax: Callable) -> dict[str, Callable[..., Run]]:
    """By name: functions of (data, device), of a model's losses. On a CPU a captured step is an eager one."""
    torch_run = functools.partial(torch_peer, loss=of_torch)
    return {
        "torch eager": torch_run,
        "torch graph": functools.partial(torch_run, captured=True),
        "torch compile": functools.partial(torch_run, compiles=True),
        "torch compile graph": functools.partial(torch_run, compiles=True, captured=True),
        "jax": functools.partial(jax_peer, loss=of_jax),
    }


PEERS = peers(torch_loss, jax_loss)
PACK_PEERS = {"torch eager, in turn": functools.partial(in_turn, torch_peer)}
PACK_PEERS.update({f"{name}, pack": peer for name, peer in PEERS.items()})
