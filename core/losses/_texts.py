"""Texts of a step through towers, without the host waiting for the device."""

from __future__ import annotations

from torch import Tensor

from ..contracts.backbone import Backbone


def encode_without_waiting(backbone: Backbone, tokens: Tensor, normalize: bool = True) -> Tensor:
    """As `backbone.encode_text`. On a device tokens are not cut: the host would have to wait for their lengths."""
    if tokens.device.type == "cpu":
        return backbone.encode_text(tokens, normalize)
    return backbone.encode_measured(tokens, tokens.shape[1], normalize)
