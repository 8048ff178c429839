"""The gradient of a batch that does not fit: two forward passes a micro-batch, the loss on the whole.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021, arXiv 2101.06983. The loss
sees all outputs of the batch, so its value and gradient are those of one large pass, for towers that treat samples
independently (LayerNorm; BatchNorm with fixed statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Outputs = dict[str, Any]


def cached_backward(
    micro_batches: Sequence[Any],
    encode: Callable[[Any], Outputs],
    loss_of: Callable[[Outputs], dict[str, Tensor]],
    backward: Callable[[Tensor], None],
    replay: Callable[[Any, Mapping[str, Tensor], bool], None],
) -> dict[str, Tensor]:
    """Gradients of the whole batch's loss, into the parameters of the towers and of the loss.

    Args:
        micro_batches: the batch in parts.
        encode: a part -> its outputs, one row per sample.
        loss_of: outputs of the whole batch -> {"loss": ..., parts}; adds what is the same for all samples itself.
        backward: runs the backward pass of the loss (a scaler may scale it).
        replay: (part, gradient of each output, whether it is the last part): runs the part again, with the random
            state of the first time, and its backward pass from these gradients.

    Returns:
        What `loss_of` gave, detached.
    """
    states, encoded = [], []
    for part in micro_batches:
        states.append(random_state())
        with torch.no_grad():
            encoded.append(encode(part))
    leaves = {name: _leaf([outputs[name] for outputs in encoded]) for name in encoded[0]}
    values = loss_of(leaves)
    backward(values["loss"])
    detached = {name: value.detach() for name, value in values.items()}
    if not any(isinstance(leaf, Tensor) and leaf.grad is not None for leaf in leaves.values()):
        return detached  # the loss looks at no sample (at classes alone), so that there is nothing to run again
    sizes = [_rows(outputs) for outputs in encoded]
    start = 0
    for i, (part, state, size) in enumerate(zip(micro_batches, states, sizes)):
        gradients = {
            name: leaf.grad[start : start + size]
            for name, leaf in leaves.items()
            if isinstance(leaf, Tensor) and leaf.grad is not None
        }
        with as_if(state):
            replay(part, gradients, i == len(micro_batches) - 1)
        start += size
    return detached


def surrogate(outputs: Mapping[str, Any], gradients: Mapping[str, Tensor]) -> Tensor:
    """A scalar whose gradient by each output is the given one."""
    return sum((outputs[name] * gradient).sum() for name, gradient in gradients.items())


def random_state() -> tuple[Tensor, list[Tensor]]:
    """Torch's random states, of the CPU and of the GPU in use."""
    return torch.get_rng_state(), [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []


@contextmanager
def as_if(state: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Inside, random numbers are those drawn after `state`; afterwards they go on where they were."""
    now = random_state()
    _set(state)
    try:
        yield
    finally:
        _set(now)


def _set(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    for of_gpu in state[1]:
        torch.cuda.set_rng_state(of_gpu)


def _leaf(parts: list[Any]) -> Any:
    if not isinstance(parts[0], Tensor):
        return parts[0]
    whole = torch.cat(parts).detach()
    return whole.requires_grad_() if whole.is_floating_point() else whole


def _rows(outputs: Mapping[str, Any]) -> int:
    return next(len(value) for value in outputs.values() if isinstance(value, Tensor))
