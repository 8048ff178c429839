"""Passes through a tower that give more than one output, or give it of pixels that were made for another tower."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.errors import CapabilityError


def image_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, D) unit. Of clips (B, T, 3, S, S) the frames' features are averaged, as the store does."""
    if pixels.ndim == 4:
        return backbone.encode_image(pixels)
    frames = backbone.encode_image(pixels.flatten(0, 1), normalize=False)  # (B * T, D)
    return F.normalize(frames.unflatten(0, pixels.shape[:2]).mean(dim=1), dim=-1)


def image_outputs(backbone: Backbone, pixels: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
    """ "image_features" (B, D) unit, "image_hidden" (B, W) and "image_tokens" (B, P, D), as far as they are named."""
    if names == {"image_features"}:
        return {"image_features": image_features(backbone, pixels)}
    if pixels.ndim == 5:
        lacking = ", ".join(sorted(names - {"image_features"}))
        raise CapabilityError(f"a loss needs {lacking}, which clips of several frames do not have; use clip")
    several = getattr(backbone, "image_outputs", None)
    if several is not None:
        return several(pixels, names)
    makers = {
        "image_features": lambda: backbone.encode_image(pixels),
        "image_hidden": lambda: backbone.hidden(pixels),
        "image_tokens": lambda: backbone.image_tokens(pixels)[0],
    }
    return {name: makers[name]() for name in sorted(names)}


def text_tokens(backbone: Backbone, tokens: Tensor, embeddings: Tensor | None = None) -> Tensor:
    """(B, L) -> (B, L, W): what the last block gives at each token."""
    mask = backbone.token_mask(tokens)
    words = backbone.embed_tokens(tokens) if embeddings is None else embeddings
    return backbone.run_blocks("text", backbone.embed_prompt(words, mask), mask=mask)


def seen_by(teacher: Backbone, student: Backbone, pixels: Tensor) -> Tensor:
    """Pixels made for the student as the teacher wants them: its mean, its deviation, its size."""
    same = (teacher.image_mean, teacher.image_std) == (student.image_mean, student.image_std)
    if not same:

        def channels(values):
            return pixels.new_tensor(values)[:, None, None]

        plain = pixels * channels(student.image_std) + channels(student.image_mean)
        pixels = (plain - channels(teacher.image_mean)) / channels(teacher.image_std)
    side = teacher.image_size
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
