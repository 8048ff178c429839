"""Matryoshka: another loss at several widths at once, so that the first numbers of a feature work as a feature too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import OWN_EQUATIONS, Extract, Loss, RowLoss, shared_of
from ..contracts.options import option, require
from ..contracts.outputs import OUTPUTS
from ..errors import ConfigError
from ..runtime.gather import RankBatch
from ..runtime.ranks import Ranks

NARROWEST = 8
TOWER_ATTRIBUTES = ("prepare", "graph_changes", "n_prefix", "frozen_towers", "logit_scale_bounds")


@dataclass(eq=False, repr=False, kw_only=True)
class Matryoshka(RowLoss):
    """Matryoshka Representation Learning (Kusupati et al., 2022, arXiv 2205.13147); for pairs of images and texts:
    jina-clip-v2 (2024, arXiv 2412.08802).

    Outputs in the shared space are cut to their first numbers, normalised again, and given to another loss;
    so at each width, each with its own loss (heads and queues too). Outputs of a frozen teacher are not cut.
    What the other loss does to towers is done once, by that of the greatest width. Ranks share out the work where the
    other loss has it so.

    The paper halves the width until little is left: 2048 to 8, 768 to 12. It sums over widths, all with weight 1; here
    their mean is the default, so that the weight beside other losses keeps its meaning. The halves of embed_dim end at
    8, or at what is odd.

    Parts: "width_768", ...: the other loss at that width.

    Raises:
        ConfigError: widths that embed_dim does not have, or not one weight for each.
        UnknownNameError: there is no such loss, or it has no such option.
        CapabilityError: dims lacks embed_dim, or what the other loss needs of it.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("matryoshka", {"embed_dim": 4}, widths=(4, 2), loss="siglip")
        >>> sorted(loss(out))
        ['loss', 'width_2', 'width_4']
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})

    loss: str = option("clip", "name of the loss to minimise at each width")
    widths: tuple[int, ...] | None = option(
        None, "widths of the shortened features; by default embed_dim and its halves", low=1, high=65_536
    )
    weights: tuple[float, ...] | None = option(
        None, "weight of each width; by default the mean over widths", above=0, high=10_000
    )
    loss_options: Mapping[str, Any] | None = option(None, "options of the other loss, by name")

    def __post_init__(self):
        super().__post_init__()
        if self.loss == "matryoshka":
            raise ConfigError("option loss=matryoshka is not usable; give the loss that is minimised at each width")
        full = self.dim("embed_dim", "its widths")
        widths = self.widths = halvings(full) if self.widths is None else self.widths
        usable = widths and max(widths) <= full and len(set(widths)) == len(widths)
        require(usable, "widths", widths, f"give different ones of 1 to {full}")
        self.weights = (1 / len(widths),) * len(widths) if self.weights is None else self.weights
        require(len(self.weights) == len(widths), "weights", self.weights, f"give {len(widths)} numbers above 0")
        self.inner = nn.ModuleDict({str(width): self._built(width) for width in widths})
        self._take_after(self.inner[str(max(widths))])

    def _built(self, width: int) -> Loss:
        from ..registry import build_loss

        teacher_width = self.dims.get("teacher_dim", self.dims["embed_dim"])
        dims = {**self.dims, "embed_dim": width, "teacher_dim": teacher_width}
        return build_loss(self.loss, dims, **(self.loss_options or {}))

    def _take_after(self, widest: Loss) -> None:
        """Needs and what is done to the towers are those of the other loss."""
        self.needs, self.teacher, self.experimental = widest.needs, widest.teacher, widest.experimental
        self.outputs, self.further_outputs = widest.outputs, widest.further_outputs
        of_prefix = ("text_prompt", "prompt_prefix") if widest.n_prefix else ()
        of_teacher = ("teacher_momentum",) if widest.teacher == "ema" else ()
        for name in (*TOWER_ATTRIBUTES, *of_prefix, *of_teacher):
            setattr(self, name, getattr(widest, name))

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        shared = shared_of(self.outputs)
        batches = {width: RankBatch(self._cut(out, width), shared, ranks) for width in self.widths}
        parts = {
            f"width_{width}": self.inner[str(width)].of_rank_batch(batch, progress)["loss"]
            for width, batch in batches.items()
        }
        return {"loss": sum(weight * part for weight, part in zip(self.weights, parts.values())), **parts}

    def _cut(self, out: Mapping[str, Any], width: int) -> dict[str, Any]:
        """The outputs with what is in the shared space cut to a width."""
        return {name: self._first(name, value, width) for name, value in out.items()}

    def _first(self, name: str, value: Any, width: int) -> Any:
        known = OUTPUTS.get(name) or self.outputs.get(name)
        of_another_space = name.startswith("teacher.") and self.teacher == "frozen"
        if known is None or known.shape[-1:] != ("D",) or of_another_space or value.shape[-1] == width:
            return value
        first = value[..., :width]
        return F.normalize(first, dim=-1) if known.kind == "unit" else first

    def held_parameters(self) -> list[nn.Parameter]:
        return [parameter for loss in self.inner.values() for parameter in loss.held_parameters()]

    def after_step(self, model: nn.Module | None) -> None:
        for loss in self.inner.values():
            loss.after_step(model)

    def before_epoch(self, extract: Extract) -> None:
        """The training set is gone through once for all widths."""
        extracted: dict[str, Tensor] = {}

        def once(names: list[str]) -> dict[str, Tensor]:
            missing = [name for name in names if name not in extracted]
            if missing:
                extracted.update(extract(missing))
            return {name: extracted[name] for name in names}

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
