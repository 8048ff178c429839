"""A loss that keeps the contract, and others that break one rule each; `BROKEN` says in which words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import broken_adapters
import torch
import torch.nn.functional as F

from vladapt import Loss, Output, option

BROKEN: list[tuple[type[Loss], tuple[str, ...]]] = []


breaks = partial(broken_adapters.breaks, where=BROKEN)
"""Of a class: the lines that its checks say."""


@dataclass(eq=False, repr=False, kw_only=True)
class Whole(Loss):
    """Images near their texts, by a head of its own and a queue of means: a baseline."""

    name: ClassVar = "whole"
    needs: ClassVar = frozenset({"image_features", "text_features"})

    weight: float = option(1.0, "of the term", low=0, high=10)

    def __post_init__(self):
        super().__post_init__()
        dim = self.dim("embed_dim", "its head")
        self.head = torch.nn.Linear(dim, dim)
        self.register_buffer("mean", torch.zeros(dim))

    def compute(self, out, progress):
        images = F.normalize(self.head(out["image_features"]), dim=-1)
        self.seen = images.detach().mean(dim=0)
        near = 1 - (images * out["text_features"]).sum(dim=-1).mean()
        return {"loss": self.weight * near + 0.1 * (self.mean * images).sum(dim=-1).mean(), "near": near.detach()}

    def after_step(self, model):
        self.mean.lerp_(self.seen, 0.5)


@breaks("its docstring names no paper: give title, year and arXiv id, or say that it is a baseline")
class OfNobody(Whole):
    """Images near their texts."""


class NoLoss(Whole):
    """A baseline."""

    def compute(self, out, progress):
        return {"near": super().compute(out, progress)["near"]}


@breaks("its 'per_image' is not a finite scalar tensor")
class PerImage(Whole):
    """A baseline."""

    def compute(self, out, progress):
        return {**super().compute(out, progress), "per_image": out["image_features"].sum(dim=1)}


@breaks("needs 'image_features', and without it raises AttributeError (no); raise the CapabilityError of one line")
class SaysNotWhatItLacks(Whole):
    """A baseline."""

    def forward(self, out, progress=0.0):
        if "image_features" not in out:
            raise AttributeError("no")
        return super().forward(out, progress)


@breaks("needs 'labels', and compute() never reads it")
class NeedsTooMuch(Whole):
    """A baseline."""

    needs: ClassVar = Whole.needs | {"labels"}


@breaks("it has no gradient")
class LearnsNothing(Whole):
    """A baseline."""

    def compute(self, out, progress):
        values = super().compute(out, progress)
        zero = 0 * values["loss"]
        return {**values, "loss": zero}


@breaks("a gradient reaches 'teacher.image'; detach it")
class TeachesTheTeacher(Whole):
    """A baseline."""

    needs: ClassVar = Whole.needs | {"teacher.image"}
    teacher: ClassVar = "frozen"

    def compute(self, out, progress):
        values = super().compute(out, progress)
        away = 1 - (out["image_features"] * out["teacher.image"]).sum(dim=-1).mean()
        return {**values, "loss": values["loss"] + away}


@breaks("needs outputs of a teacher, and teacher is None")
class NoTeacher(TeachesTheTeacher):
    """A baseline."""

    teacher: ClassVar = None

    def compute(self, out, progress):
        return super().compute({**out, "teacher.image": out["teacher.image"].detach()}, progress)


@breaks("another order of the batch changes it by ...")
class ByPlace(Whole):
    """A baseline."""

    def compute(self, out, progress):
        values = super().compute(out, progress)
        place = torch.linspace(0, 1, len(out["image_features"]))[:, None]
        return {**values, "loss": values["loss"] + (place * out["image_features"]).sum(dim=0).mean()}


@breaks("half of the rows, with those of another rank, gives ..., the whole batch ...")
class OfItsOwnRows(Whole):
    """A baseline."""

    def forward(self, out, progress=0.0):
        super().forward(out, progress)
        return self.of_whole_batch(out, progress)

    def compute(self, out, progress):
        values = super().compute(out, progress)
        return {**values, "loss": values["loss"] + out["image_features"].mean(dim=0).square().sum()}


@breaks(
    "another order of the batch changes it by ...",
    "half of the rows, with those of another rank, gives ..., the whole batch ...",
    "micro-batches change the gradient of ...",
    "in ...float16 it is ..., not ...",
    "gives a different value for the same batch the second time; change state only in after_step",
    "after a step a deep copy differs by ...; keep all state in buffers and parameters",
)
class ByChance(Whole):
    """A baseline."""

    def compute(self, out, progress):
        values = super().compute(out, progress)
        return {**values, "loss": values["loss"] * (1 + 9 * torch.rand(()))}


@breaks("in float16 it or its gradient is not finite")
class Overflows(Whole):
    """A baseline."""

    def of_whole_batch(self, out: Mapping, progress: float):
        half = out["image_features"].dtype == torch.float16
        values = super().of_whole_batch(out, progress)
        return {**values, "loss": values["loss"] * (float("inf") if half else 1.0)}


@breaks("moves its buffer 'batches' before the step; do it in after_step")
class MovesAtOnce(Whole):
    """A baseline."""

    def __post_init__(self):
        super().__post_init__()
        self.register_buffer("batches", torch.zeros(()))

    def compute(self, out, progress):
        self.batches += 1
        return super().compute(out, progress)


@breaks(
    "gives a different value for the same batch the second time; change state only in after_step",
    "after a step a new one with its state dict differs by ...; keep all state in buffers and parameters",
)
class Counts(Whole):
    """A baseline."""

    def forward(self, out, progress=0.0):
        values = super().forward(out, progress)
        self.times = getattr(self, "times", 0) + 1
        return {**values, "loss": values["loss"] + (1.0 if self.times == 2 else 0.0)}


@breaks("after a step a new one with its state dict differs by ...; keep all state in buffers and parameters")
class Remembers(Whole):
    """A baseline."""

    def compute(self, out, progress):
        values = super().compute(out, progress)
        return {**values, "loss": values["loss"] + getattr(self, "kept", 0.0)}

    def after_step(self, model):
        super().after_step(model)
        self.kept = 1.0


@breaks("outputs brings 'labels', which there is already")
class BringsWhatThereIs(Whole):
    """A baseline."""

    outputs: ClassVar = {"labels": Output("classes", ("B",), "class", column="labels")}


@breaks("teacher is 'student'; give one of None, ema, frozen")
class OddTeacher(Whole):
    """A baseline."""

    teacher: ClassVar = "student"


@breaks("frozen_towers is ['audio']; the towers are image and text")
class FreezesNothing(Whole):
    """A baseline."""

    frozen_towers: ClassVar = frozenset({"audio"})


@breaks("option 'bare' is a bare field; make it with option(default, help, ...)")
@dataclass(eq=False, repr=False, kw_only=True)
class Bare(Whole):
    """A baseline."""

    bare: float = 0.5
