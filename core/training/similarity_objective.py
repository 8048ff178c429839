"""Losses on a similarity of samples and texts that a head makes of the features that towers give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.loss import Loss
from ..errors import CapabilityError, ConfigError
from ..registry import loss_class
from .fields import fields_of
from .objective import Objective, build_objective
from .sources import TrainingSource
from .teachers import load_teachers, need_teacher_texts, side_by_side, widths_of
from .tower_outputs import numbers_as
from .tower_settings import check_losses, losses_of

SIDES = frozenset({"image_features", "text_features"})
OF_TOWERS = frozenset({"logit_scale", "logit_bias", "teacher.image", "teacher.text", "teacher.logit_scale"})
"""Outputs that frozen towers give, besides the two sides of the similarity."""
OF_SOURCE = frozenset({"labels", "image_ids"})


class SimilarityObjective(Objective):
    """Losses that need no more than the two sides of a similarity, what frozen towers give, and the source."""

    teachers: Sequence[Backbone] = ()
    """Frozen, on the device of the towers; none: the towers before the training."""

    @staticmethod
    def check(loss: str | None, options: Mapping[str, Mapping[str, Any]] | None) -> None:
        """As `check_losses`."""
        check_losses(loss, options or {})

    @classmethod
    def asked(
        cls,
        loss: str | None,
        options: Mapping[str, Mapping[str, Any]] | None,
        teachers: Sequence[str],
        *,
        who: str,
        pairwise: bool,
        backbone: Backbone,
        source: TrainingSource,
    ) -> SimilarityObjective:
        """What options of a head say.

        Args:
            loss: "clip=1,egonce=0.5"; None: clip.
            options: loss -> its keyword arguments.
            teachers: specs.
            who: asks, for messages.
            pairwise: whether the similarity is of a sample and a text together, so that there are no features.
            backbone, source: that the features are of.

        Raises:
            CapabilityError: a loss needs more than that. ConfigError: it has no frozen teacher, and one is given.
        """
        named = losses_of(loss, "clip")
        for name in named:
            _check_loss(name, loss_class(name), who, pairwise)
        dims = {"embed_dim": backbone.embed_dim, "num_samples": len(source)}
        built = build_objective(named, dims, options)
        for name, made in built.losses.items():
            _check_loss(name, made, who, pairwise)
        asking = f"{who}: loss {' + '.join(named)}"
        if teachers and built.teacher != "frozen":
            raise ConfigError(f"--teacher {teachers[0]}: {asking} has no frozen teacher; omit it")
        loaded = load_teachers(teachers, backbone)
        if loaded:
            built = build_objective(named, {**dims, **widths_of(loaded)}, options)
        need_teacher_texts(loaded, built.needs, asking)
        fields_of(built.needs - SIDES - OF_TOWERS, source, asking, built.outputs)
        objective = cls(dict(built.losses.items()), built.weights)
        objective.teachers = loaded
        return objective.to(backbone.device)

    @property
    def further_needs(self) -> frozenset[str]:
        """Outputs that it needs besides the two sides."""
        return self.needs - SIDES

    def taught(self, images: Sequence[Tensor], texts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs of teachers, of (B, D_k) unit features of samples and texts by each."""
        return {"teacher.image": side_by_side(images), "teacher.text": side_by_side(texts)}

    def facts(self, source: TrainingSource, rows: Iterable[int]) -> dict[str, Tensor]:
        """What it needs of the data at some rows: labels, images, columns of numbers."""
        rows, facts = list(rows), {}
        for name in self.needs & (OF_SOURCE | self.outputs.keys()):
            if name in self.outputs:
                output = self.outputs[name]
                numbers = [list(source.numbers(output.column, row)) for row in rows]
                facts[name] = numbers_as(output, torch.tensor(numbers, dtype=torch.float64))
            else:
                facts[name] = torch.tensor(
                    [source.label(row) if name == "labels" else source.image_id(row) for row in rows]
                )
        return facts

    def of_sides(self, images: Tensor, texts: Tensor, out: Mapping[str, Any], progress: float) -> Tensor:
        """The weighted sum of the losses of a whole batch.

        Args:
            images, texts: (B, D) of both sides.
            out: `further_needs`.
        """
        both = {**out, "image_features": images, "text_features": texts}
        losses = [
            self.weights[name] * loss.of_whole_batch(both, progress)["loss"] for name, loss in self.losses.items()
        ]
        return torch.stack(losses).sum()


def _check_loss(name: str, loss: Loss | type[Loss], who: str, pairwise: bool) -> None:
    """Raise the CapabilityError of one that needs more, by its class or by its options."""
    if pairwise and not loss.of_products:
        raise CapabilityError(
            f"{who}: loss '{name}' compares features, and this head scores a clip and a sentence together; use clip"
        )
    columns = {output for output, what in loss.outputs.items() if what.column and not what.tower}
    lacking = sorted(loss.needs - SIDES - OF_TOWERS - OF_SOURCE - columns)
    if loss.teacher == "ema":
        lacking = ["a teacher that follows the towers"]
    if lacking:
        raise CapabilityError(
            f"{who}: loss '{name}' needs more than a head of clips and sentences gives ({lacking[0]}); use clip"
        )
