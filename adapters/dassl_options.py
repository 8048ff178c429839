"""Options of the methods that are trained on features as Dassl trains (`core.training.dassl_epochs`)."""

from __future__ import annotations

from typing import Any

from ..core.contracts import option


def dassl_batch_size(default: int) -> Any:
    """The option `batch_size`."""
    return option(
        default, "images per step; an incomplete last batch is dropped where there is a full one", low=1, high=1_048_576
    )


def dassl_warmup() -> Any:
    """The option `warmup`."""
    return option(
        "constant", "warm-up in the first epoch: constant at 1e-5, linear, or none", choices=("constant", "linear")
    )
