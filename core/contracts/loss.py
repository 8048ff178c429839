"""What is minimised: a module that says by name what it needs of a model's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import CapabilityError


class Loss(nn.Module, ABC):
    """Base of all losses. A loss owns its heads and buffers, which are optimised and checkpointed with the model.

    Class attributes:
        needs: names that `out` must hold ("image_features", "text_features", "logit_scale", "logits", "labels", ...).

    Optional hooks a trainer calls when they exist: `before_epoch(extract)`, `after_step(model)`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, dims: Mapping[str, int] | None = None):
        super().__init__()
        self.dims = dict(dims or {})

    def forward(self, out: Mapping[str, Any], progress: float = 0.0) -> dict[str, Tensor]:
        """`{"loss": scalar, part: scalar, ...}`.

        Args:
            out: named outputs of towers and views.
            progress: share of training done, 0 to 1.

        Raises:
            CapabilityError: `out` lacks something in `needs`.
        """
        lacking = sorted(self.needs - set(out))
        if lacking:
            raise CapabilityError(
                f"loss '{type(self).__name__}' needs {', '.join(lacking)}; the model gives {sorted(out)}"
            )
        return self.compute(out, progress)

    @abstractmethod
    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        """The loss and its parts."""
