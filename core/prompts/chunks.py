"""Prompts encoded a part at a time, so that memory does not grow with the number of classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 4096
"""Tokens at once where a caller does not say. A text tower of ViT-B/16's size holds some 1.5 GB for the backward pass
of so many, and a larger batch of them is hardly faster on a CPU."""


def encode_in_chunks(
    encode: Callable[[Tensor], Tensor], rows: Tensor, lengths: Tensor, chunk: int, *, recompute: bool
) -> Tensor:
    """What `encode(rows)` gives, (..., R, D), to rounding, with the activations of `chunk` rows at a time.

    Rows of like length go together, so that each chunk can be cut to its own longest prompt.

    Args:
        encode: row numbers (r,) -> features (..., r, D).
        rows: (R,) int64.
        lengths: (R,) tokens of each row.
        chunk: rows at once.
        recompute: hold none of the activations for the backward pass: each chunk then runs a second time there, and the
            gradients, summed over chunks, are the same. It takes effect only where gradients are recorded.
    """
    if recompute and torch.is_grad_enabled():
        encode = _recomputed(encode)
    elif chunk >= len(rows):
        return encode(rows)
    order = lengths.argsort(stable=True)
    parts = [encode(part) for part in rows[order].split(chunk)]
    return torch.cat(parts, dim=-2)[..., order.argsort(), :]


def _recomputed(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(rows: Tensor) -> Tensor:
        # Frozen towers run in eval mode, so there is no random state to bring back.
        return checkpoint(encode, rows, use_reentrant=False, preserve_rng_state=False)

    return forward
