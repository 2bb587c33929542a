"""A training step as users of PyTorch and JAX write it, whatever the model: what peers of bench_peers.py are made of.

A peer gives its loss, loss_of(weights, ids, *state), and, where its state changes, what happens after a step. All else
is here, once: Adam, compilation, capture, the scan. R replicas, P parameters of one, B ids a batch.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
SCAN = {"cpu": 8, "cuda": 16}  # steps of one call of JAX
WARM_UP = 3  # steps before a capture: libraries set themselves up in the first
ALIGNED = 16  # numbers: each parameter in a flat array begins at a multiple
Run = Callable[[int], list]  # takes n more steps; their losses, the last of them where many: numbers, or R of them each


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in PyTorch's or JAX's words."""
    text = str(error)
    words = ("out of memory", "not enough memory", "can't allocate memory", "RESOURCE_EXHAUSTED")
    return isinstance(error, MemoryError) or any(word in text for word in words)


# PyTorch --------------------------------------------------------------------------------------------------------------


def set_up_torch(device: str, precision: str = "fp32") -> None:
    """Threads as the affinity says; float32 products in full or as TF32, whatever the environment says."""
    import torch

    warnings.filterwarnings("ignore", "There is a performance drop")  # vmap loops over attention, its fastest form here
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


def compiled(function: Callable, device: str, captured: bool = False) -> Callable:
    """torch.compile; on a GPU with all that autotuning finds. What is captured later makes no graphs of its own."""
    import torch

    torch._dynamo.config.recompile_limit = 1000  # of one piece of text, which all models and shapes of a process share
    modes = {True: "max-autotune-no-cudagraphs", False: "max-autotune"}
    return torch.compile(function, fullgraph=True, mode=modes[captured] if device == "cuda" else None)


def hold_still(device: str, tensors: Sequence) -> None:
    """Promises torch.compile that they stay where they are: a CUDA graph of its own would copy them at each call."""
    import torch

    for tensor in tensors if device == "cuda" else ():
        torch._dynamo.mark_static_address(tensor)


def capture(body: Callable, device: str, reset: Callable[[], None]) -> Callable:
    """`body` as one CUDA graph. It and what it does are undone by `reset`; on a CPU it is called as it is."""
    import torch

    if device == "cpu":
        for _ in range(WARM_UP):
            body()
        reset()
        return body
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = body()
    reset()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def _autograd_step(loss_of: Callable, weights: dict, rate: float, captured: bool) -> tuple[Callable, Callable]:
    """One model by autograd and torch.optim.Adam(fused=True)."""
    import torch

    leaves = {name: w[0].clone().requires_grad_() for name, w in weights.items()}
    adam = torch.optim.Adam(leaves.values(), lr=rate, betas=(BETA1, BETA2), eps=EPS, fused=True, capturable=captured)

    def step(ids: Any, *state: Any) -> Any:
        adam.zero_grad()
        loss = loss_of(leaves, ids, *state)
        loss.backward()
        adam.step()
        return loss.detach()

    @torch.no_grad()
    def reset() -> None:
        for name, leaf in leaves.items():
            leaf.copy_(weights[name][0])
        for moments in adam.state.values():
            for moment in moments.values():
                moment.zero_()

    return step, reset


@functools.cache
def _functional_update(loss_of: Callable, shapes: tuple, replicas: int, own_ids: bool, states: int) -> Callable:
    """Changes flat weights (R, P) and moments in place, all replicas at once by torch.func. Cached: runs share it."""
    import torch

    sizes = [math.prod(shape) for _, shape in shapes]
    padded = [-(-size // ALIGNED) * ALIGNED for size in sizes]

    def loss_of_flat(flat: Any, ids: Any, *state: Any) -> Any:
        parts = zip(shapes, sizes, flat.split(padded))
        return loss_of({name: part[:size].view(shape) for (name, shape), size, part in parts}, ids, *state)

    gradient = torch.func.grad_and_value(loss_of_flat)
    if replicas > 1:
        gradient = torch.vmap(gradient, in_dims=(0, 0 if own_ids else None, *[None] * states))

    def update(flat: Any, first: Any, second: Any, count: Any, rate: Any, ids: Any, *state: Any) -> Any:
        g, losses = gradient(flat if replicas > 1 else flat[0], ids, *state)
        count.add_(1)
        correction1, correction2 = (-torch.expm1(count * math.log(beta)) for beta in (BETA1, BETA2))
        first.lerp_(g.view_as(first), 1 - BETA1)
        second.mul_(BETA2).addcmul_(g.view_as(second), g.view_as(second), value=1 - BETA2)
        flat.addcdiv_(first * (-rate / correction1), (second / correction2).sqrt_().add_(EPS))
        return losses

    return update


@functools.cache
def _compiled_update(update: Callable, device: str, captured: bool) -> Callable:
    return compiled(update, device, captured)


def _functional_step(
    loss_of: Callable,
    weights: dict,
    rates: Any,
    own_ids: bool,
    state: Sequence,
    device: str,
    compiles: bool,
    captured: bool,
) -> tuple[Callable, Callable]:
    """All replicas as one array, so that Adam is few operations; compiled or not."""
    import torch

    replicas = len(next(iter(weights.values())))
    parts = [torch.nn.functional.pad(w.flatten(1), (0, -w[0].numel() % ALIGNED)) for w in weights.values()]
    initial = torch.cat(parts, 1).contiguous()
    tensors = initial.clone(), torch.zeros_like(initial), torch.zeros_like(initial), torch.zeros((), device=device)
    rate = torch.tensor(rates, dtype=torch.float32, device=device).reshape(-1, 1)
    shapes = tuple((name, tuple(w.shape[1:])) for name, w in weights.items())
    update = _functional_update(loss_of, shapes, replicas, own_ids, len(state))
    if compiles:
        update = _compiled_update(update, device, captured)
        hold_still(device, [*tensors, rate, *state])

    def reset() -> None:
        tensors[0].copy_(initial)
        for tensor in tensors[1:]:
            tensor.zero_()

    return functools.partial(update, *tensors, rate), reset


def torch_train(
    loss_of: Callable,
    weights: dict[str, np.ndarray],
    batches: np.ndarray,
    state: Sequence,
    device: str,
    rate: float | Sequence[float],
    after: Callable | None = None,
    compiles: bool = False,
    captured: bool = False,
) -> Run:
    """Training by PyTorch.

    Parameters
    ----------
    loss_of
        loss_of(weights, ids, *state) -> scalar, of one replica. The same object for runs that may share compiled code.
    weights
        {name: (R, ...)}. One replica steps by autograd and fused Adam, more, or compiled ones, by torch.func.
    batches
        Ids (steps, B) of all replicas or (steps, R, B), which repeat.
    state
        Tensors on the device; `after(ids, *state)` changes them in place after each step.
    rate
        Of all replicas, or R rates.
    captured
        Whether a whole step is one CUDA graph, that of compiled code too.
    """
    import torch

    weights = {name: torch.tensor(array, device=device) for name, array in weights.items()}
    ids = torch.from_numpy(batches).to(device)
    replicas = len(next(iter(weights.values())))
    if replicas == 1 and not compiles:
        step, reset_weights = _autograd_step(loss_of, weights, rate, captured and device == "cuda")
    else:
        step, reset_weights = _functional_step(
            loss_of, weights, rate, ids.dim() == 3, state, device, compiles, captured
        )

    def whole_step(batch: Any) -> Any:
        loss = step(batch, *state)
        if after:
            after(batch, *state)
        return loss

    run = _captured_run if captured else _plain_run
    return run(whole_step, ids, replicas, device, reset_weights, state if after else ())


def _plain_run(step: Callable, ids: Any, *_: Any) -> Run:
    import torch

    done = 0

    def run(steps: int) -> list:
        nonlocal done
        losses = []
        for _ in range(steps):
            losses.append(step(ids[done % len(ids)]).clone())  # a graph of torch.compile's own reuses the memory
            done += 1
        return torch.stack(losses).tolist()

    return run


def _captured_run(
    step: Callable, ids: Any, replicas: int, device: str, reset_weights: Callable, state: Sequence
) -> Run:
    """Nothing but replays: which batch is next and where its losses go is on the device too."""
    import torch

    next_batch = torch.zeros(1, dtype=torch.int64, device=device)
    ring = torch.zeros((len(ids), *([replicas] if replicas > 1 else [])), device=device)
    initial = [tensor.clone() for tensor in state]

    def body() -> None:
        loss = step(ids.index_select(0, next_batch)[0])
        ring.index_copy_(0, next_batch, loss[None])
        next_batch.add_(1).remainder_(len(ids))

    def reset() -> None:
        reset_weights()
        next_batch.zero_()
        for tensor, before in zip(state, initial):
            tensor.copy_(before)

    replay, done = capture(body, device, reset), 0

    def run(steps: int) -> list:
        nonlocal done
        for _ in range(steps):
            replay()
        done += steps
        last = np.arange(done - min(steps, len(ids)), done) % len(ids)
        return ring.cpu()[last].tolist()

    return run


# JAX ------------------------------------------------------------------------------------------------------------------


def set_up_jax(device: str, precision: str = "fp32") -> None:
    """On the device alone; on a GPU, whose default is TF32, products as the precision says."""
    import jax

    jax.config.update("jax_platforms", device)
    if device == "cuda":
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if precision == "tf32" else "highest")


def jax_train(
    loss_of: Callable,
    weights: dict[str, np.ndarray],
    batches: np.ndarray,
    constants: Any,
    device: str,
    rate: float | Sequence[float],
    memory: Any = (),
    after: Callable | None = None,
) -> Run:
    """Training by JAX: jit of a scan over SCAN steps, of many replicas by vmap. As torch_train, but for state.

    It takes whole scans; the losses of what the last one makes beyond the steps asked for are left out.

    loss_of(weights, ids, constants, memory) -> scalar; after(ids, constants, memory) -> memory.
    """
    import jax
    import jax.numpy as jnp

    replicas, scanned = len(next(iter(weights.values()))), SCAN[device]
    weights = {name: jnp.asarray(array) for name, array in weights.items()}
    batches, constants, memory = (jax.tree.map(jnp.asarray, tree) for tree in (batches, constants, memory))

    def step(carry, ids, constants):
        weights, first, second, count, rate, memory = carry
        loss, gradients = jax.value_and_grad(loss_of)(weights, ids, constants, memory)
        first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradients)
        correction1, correction2 = (-jnp.expm1((count + 1) * math.log(beta)) for beta in (BETA1, BETA2))
        weights = jax.tree.map(
            lambda w, m, v: w - rate * (m / correction1) / (jnp.sqrt(v / correction2) + EPS), weights, first, second
        )
        if after:
            memory = after(ids, constants, memory)
        return (weights, first, second, count + 1, rate, memory), loss

    def scan(carry, ids, constants):
        return jax.lax.scan(lambda carry, ids: step(carry, ids, constants), carry, ids)

    rates = jnp.broadcast_to(jnp.float32(rate), (replicas,))
    carry = (weights, *[jax.tree.map(jnp.zeros_like, weights)] * 2, jnp.zeros(replicas), rates, memory)
    if replicas > 1:
        scan = jax.vmap(scan, in_axes=(0, 1 if batches.ndim == 3 else None, None), out_axes=(0, 1))
    else:
        carry = (*jax.tree.map(lambda x: x[0], carry[:-1]), memory)

    @jax.jit
    def steps_from(carry, start, batches, constants):
        return scan(carry, batches[(start + jnp.arange(scanned)) % len(batches)], constants)

    done = 0

    def run(steps: int) -> list:
        nonlocal carry, done
        losses = []
        for _ in range(0, steps, scanned):
            carry, part = steps_from(carry, done % len(batches), batches, constants)
            done += scanned
            losses.append(part)
        return np.concatenate(losses)[:steps].tolist()

    return run
