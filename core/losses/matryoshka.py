"""Matryoshka: another loss at several widths at once, so that the first numbers of a feature are a feature too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.errors import ConfigError
from ..contracts.loss import Extract, Loss
from ..contracts.outputs import OUTPUTS

NARROWEST = 8
OF_TOWERS = ("prepare", "text_prompt", "teacher_momentum", "n_prefix", "frozen_towers", "logit_scale_bounds")


class Matryoshka(Loss):
    """Matryoshka Representation Learning (Kusupati et al., 2022, arXiv 2205.13147); for pairs of images and texts:
    jina-clip-v2 (2024, arXiv 2412.08802).

    Outputs in the shared space are cut to their first numbers, brought to length 1 again, and given to another loss;
    so at each width, each with a loss of its own (heads and queues too). What a frozen teacher gives is left whole.
    What the other loss does to towers is done once, by that of the greatest width.

    The paper halves the width until little is left: 2048 to 8, 768 to 12. It sums over widths, all with weight 1; here
    their mean is the default, so that the weight beside other losses keeps its meaning.

    Args:
        loss: name of the other loss.
        widths: numbers of a feature that are kept, each up to embed_dim; by default embed_dim and its halves, down to
            8 or to what is odd.
        weights: factor of each width; None for their mean.
        loss_options: keyword arguments of the other loss.

    Parts: "width_768", ...: the other loss at that width.

    Raises:
        ConfigError: an option is out of range.
        UnknownNameError: there is no such loss, or it has no such option.
        CapabilityError: dims lacks embed_dim, or what the other loss needs of it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        loss: str = "clip",
        widths: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        loss_options: Mapping[str, Any] | None = None,
    ):
        super().__init__(dims)
        if loss == "matryoshka":
            raise ConfigError("option loss=matryoshka is not usable; give the loss that is minimised at each width")
        full = self.dim("embed_dim", "its widths")
        self.widths = halvings(full) if widths is None else tuple(widths)
        usable = self.widths and all(type(width) is int and 1 <= width <= full for width in self.widths)
        require(usable and len(set(self.widths)) == len(self.widths), "widths", widths, f"give some of 1 to {full}")
        self.weights = (1 / len(self.widths),) * len(self.widths) if weights is None else tuple(weights)
        of_one_length = len(self.weights) == len(self.widths) and all(weight > 0 for weight in self.weights)
        require(of_one_length, "weights", weights, f"give {len(self.widths)} numbers above 0")
        self.inner = nn.ModuleDict({str(width): self._built(loss, width, loss_options) for width in self.widths})
        self._take_after(self.inner[str(max(self.widths))])

    def _built(self, name: str, width: int, options: Mapping[str, Any] | None) -> Loss:
        from ..registry import build_loss

        teacher_width = self.dims.get("teacher_dim", self.dims["embed_dim"])
        return build_loss(name, {**self.dims, "embed_dim": width, "teacher_dim": teacher_width}, **(options or {}))

    def _take_after(self, widest: Loss) -> None:
        """Needs and hooks are those of the other loss; a hook it lacks, this one lacks too."""
        self.needs, self.teacher, self.experimental = widest.needs, widest.teacher, widest.experimental
        for name in OF_TOWERS:
            if hasattr(widest, name):
                setattr(self, name, getattr(widest, name))
        for name, passed_on in (("after_step", self._after_step), ("before_epoch", self._before_epoch)):
            if hasattr(widest, name):
                setattr(self, name, passed_on)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        parts = {
            f"width_{width}": self.inner[str(width)].compute(self._cut(out, width), progress)["loss"]
            for width in self.widths
        }
        return {"loss": sum(weight * part for weight, part in zip(self.weights, parts.values())), **parts}

    def _cut(self, out: Mapping[str, Any], width: int) -> dict[str, Any]:
        """The outputs with what is in the shared space cut to a width."""
        return {name: self._first(name, value, width) for name, value in out.items()}

    def _first(self, name: str, value: Any, width: int) -> Any:
        known = OUTPUTS.get(name)
        of_another_space = name.startswith("teacher.") and self.teacher == "frozen"
        if known is None or known.shape[-1:] != ("D",) or of_another_space or value.shape[-1] == width:
            return value
        first = value[..., :width]
        return F.normalize(first, dim=-1) if known.kind == "unit" else first

    def _after_step(self, model: nn.Module | None) -> None:
        for loss in self.inner.values():
            loss.after_step(model)

    def _before_epoch(self, extract: Extract) -> None:
        """The training set is gone through once for all widths."""
        found: dict[str, Tensor] = {}

        def once(names: list[str]) -> dict[str, Tensor]:
            missing = [name for name in names if name not in found]
            if missing:
                found.update(extract(missing))
            return {name: found[name] for name in names}

        for width, loss in self.inner.items():
            loss.before_epoch(lambda names, width=int(width): self._cut(once(names), width))


def halvings(width: int) -> tuple[int, ...]:
    """The width, its half, and so on, down to 8 or to an odd one.

    >>> halvings(768)
    (768, 384, 192, 96, 48, 24, 12)
    """
    widths = [width]
    while widths[-1] % 2 == 0 and widths[-1] // 2 >= NARROWEST:
        widths.append(widths[-1] // 2)
    return tuple(widths)
