"""The deep transformer as users of PyTorch and JAX write it: peers of bench_peers.py. As bench_layer_peers.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import bench_layer_peers


def num_blocks(weights: dict) -> int:
    return sum(name.endswith("ln_1.weight") for name in weights)


@functools.cache
def torch_loss(heads: int, batched_attention: bool = False) -> Callable:
    """Mean loss of the next bit: loss_of(weights, ids, sequences)."""
    import torch.nn.functional as nn

    attention = bench_layer_peers.torch_attention(batched_attention)

    def logits(weights: dict, bits: Any) -> Any:
        def linear(x: Any, name: str) -> Any:
            return nn.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

        def norm(x: Any, name: str) -> Any:
            return nn.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

        batch, length = bits.shape
        x = nn.embedding(bits, weights["transformer.wte.weight"]) + weights["transformer.wpe.weight"][:length]
        for layer in range(num_blocks(weights)):
            block = f"transformer.h.{layer}"
            qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
            q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            o = attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
            x = x + linear(o, f"{block}.attn.c_proj")
            hidden = nn.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        z = linear(norm(x, "transformer.ln_f"), "lm_head")
        return z[..., 1] - z[..., 0]

    return bench_layer_peers.torch_next_bit(logits)


def jax_loss(heads: int) -> Callable:
    """As torch_loss: loss_of(weights, ids, sequences, memory)."""
    import jax

    def logits(weights, bits):
        def linear(x, name):
            return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        def norm(x, name):
            centred = x - x.mean(-1, keepdims=True)
            scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
            return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

        x = weights["transformer.wte.weight"][bits] + weights["transformer.wpe.weight"][: bits.shape[1]]
        for layer in range(num_blocks(weights)):
            block = f"transformer.h.{layer}"
            o = bench_layer_peers.jax_attention(linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn"), heads)
            x = x + linear(o, f"{block}.attn.c_proj")
            hidden = jax.nn.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate=False)
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        z = linear(norm(x, "transformer.ln_f"), "lm_head")
        return z[..., 1] - z[..., 0]

    return bench_layer_peers.jax_next_bit(logits)


PEERS = bench_layer_peers.peers(torch_loss, jax_loss)
