"""A method that keeps the contract, and others that break one rule each; `BROKEN` says in which words."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from vladapt import Adapter, FitReport, option
from vladapt.core.contracts.features import Batch

BROKEN: list[tuple[type[Adapter], tuple[str, ...]]] = []
OF_TOWERS: list[tuple[type[Adapter], tuple[str, ...]]] = []
"""The same of methods that run towers."""


def breaks(*lines: str, where=BROKEN):
    """Of a class: the lines that its checks say."""

    def note(cls):
        where.append((cls, lines))
        return cls

    return note


@dataclass(eq=False, kw_only=True)
class Whole(Adapter):
    """Class means, mixed with the texts of classes: a baseline."""

    name: ClassVar = "whole"
    state: ClassVar = ("means", "scale")

    text: float = option(0.5, "how much of the class text vector is mixed in", low=0, high=1)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
        one_hot = F.one_hot(support.labels, len(classifier)).float()  # (N, C)
        means = F.normalize(one_hot.T @ support.unit, dim=1)  # (C, D)
        self.means = F.normalize(torch.lerp(means, classifier.weights, self.text), dim=1)
        self.scale = float(classifier.logit_scale)
        return FitReport("whole")

    def _logits(self, batch):
        return self.scale * batch.unit @ self.means.T  # (B, C)


# fits -----------------------------------------------------------------------------------------------------------------


@breaks("its report is of adapter 'other'")
class OfAnother(Whole):
    """A baseline."""

    def _fit(self, support, classifier, **given):
        super()._fit(support, classifier, **given)
        return FitReport("other")


@breaks("its report does not say what settings were chosen on")
class ChosenOnNothing(Whole):
    """A baseline."""

    def _fit(self, support, classifier, **given):
        super()._fit(support, classifier, **given)
        return FitReport("whole", chosen_on="")


@breaks("cannot be fitted on three classes of three images: RuntimeError: no")
class Unfit(Whole):
    """A baseline."""

    def _fit(self, support, classifier, **given):
        raise RuntimeError("no")


def refuses(wanted, line):
    """A baseline that cannot be fitted on some sets."""

    @breaks(line)
    class Refusing(Whole):
        __doc__ = refuses.__doc__

        def _fit(self, support, classifier, **given):
            if wanted(support, classifier):
                raise ValueError("no")
            return super()._fit(support, classifier, **given)

    return Refusing


refuses(lambda support, classifier: len(classifier) == 2, "fails on two classes of one image: ValueError: no")
refuses(lambda support, classifier: len(classifier) == 4, "fails on classes of 3, 0, 1 and 2 images: ValueError: no")
refuses(lambda support, classifier: len(classifier) == 5, "fails on classes of 1 to 16 images: ValueError: no")
refuses(
    lambda support, classifier: len(classifier) == 1000,
    "fails on 1,000 classes, four of them with an image: ValueError: no",
)
refuses(lambda support, classifier: support.dim == 3, "fails on features of width 3: ValueError: no")


@breaks("on two classes of one image its logits are not finite numbers")
class NoNumbers(Whole):
    """A baseline."""

    def _logits(self, batch):
        logits = super()._logits(batch)
        return logits / 0 if logits.shape[1] == 2 else logits


@breaks("on features of width 3 its logits have shape (3, 4), not (3, 3)")
class OneTooMany(Whole):
    """A baseline."""

    def _logits(self, batch):
        logits = super()._logits(batch)
        return F.pad(logits, (0, 1)) if self.dim_ == 3 else logits


@breaks("gives other logits without a backbone; put 'text_encoder' in needs or optional")
class ByItsBackbone(Whole):
    """A baseline."""

    def _fit(self, support, classifier, *, backbone, **given):
        report = super()._fit(support, classifier, backbone=backbone, **given)
        self.scale = 1.0 if backbone is None else 2.0
        return report


@breaks(
    "gives other numbers with the same seed; draw from a generator of its own, seeded by seed=",
    "gives other logits without a backbone; put 'text_encoder' in needs or optional",
)
class ByChance(Whole):
    """A baseline."""

    def _fit(self, support, classifier, **given):
        report = super()._fit(support, classifier, **given)
        self.means = self.means + 0.01 * torch.randn(self.means.shape)
        return report


@breaks("judges an image differently beside others: its logits differ by ...")
class BesideOthers(Whole):
    """A baseline."""

    def _logits(self, batch):
        logits = super()._logits(batch)
        return logits - 0.5 * logits.mean(dim=0)


@breaks("its fit changes support.features; work on a copy")
class InPlace(Whole):
    """A baseline."""

    def _fit(self, support, classifier, **given):
        support.features.mul_(2)
        return super()._fit(support, classifier, **given)


@breaks("several labels: RuntimeError: ...")
class NotOfSeveral(Whole):
    """A baseline."""

    multilabel: ClassVar = True


@breaks(
    "is not multilabel, and given several labels per image it raises nothing; raise the CapabilityError of one line"
)
class TakesTheFirst(Whole):
    """A baseline."""

    def fit(self, support, classifier, **given):
        if support is not None and support.labels is not None and support.labels.ndim == 2:
            support = replace(support, labels=support.labels.nan_to_num().argmax(dim=1))
            given["val"] = None
        return super().fit(support, classifier, **given)


@breaks("no labels: TypeError: ...")
class NotWithoutLabels(Whole):
    """A baseline."""

    label_free: ClassVar = True


@breaks("is not label_free, and given no labels it raises nothing; raise the CapabilityError of one line")
class MakesLabelsUp(Whole):
    """A baseline."""

    def fit(self, support, classifier, **given):
        if support.labels is None:
            support = replace(support, labels=torch.arange(len(support)) % len(classifier))
        return super().fit(support, classifier, **given)


# files ----------------------------------------------------------------------------------------------------------------


@breaks(
    "saved and loaded again, it raises AttributeError (...); name it in state",
    "loaded in another process, it fails: AttributeError: ...",
)
class Forgets(Whole):
    """A baseline."""

    state: ClassVar = ("means",)


@breaks(
    "saved and loaded again, its logits differ by ...",
    "loaded in another process, its logits differ by ...",
)
class LoadsOtherwise(Whole):
    """A baseline."""

    state: ClassVar = ("means", "scale")

    def _logits(self, batch):
        return super()._logits(batch) * getattr(self, "more", 2.0)

    def _fit(self, support, classifier, **given):
        self.more = 1.0
        return super()._fit(support, classifier, **given)


@breaks("saved and loaded again, it has other options")
class OtherOptions(Whole):
    """A baseline."""

    @property
    def options(self):
        return {**super().options, "text": 0.5 if getattr(self, "loaded", False) else 0.25}

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "fitted_" and not hasattr(self, "_attached"):
            super().__setattr__("loaded", True)


@breaks("state names an attribute twice")
class Twice(Whole):
    """A baseline."""

    state: ClassVar = ("means", "scale", "means")


@breaks("loaded in another process, its logits differ by ...")
class OfOneProcess(Whole):
    """A baseline."""

    def _logits(self, batch):
        return super()._logits(batch) * (1 + os.getpid() % 1000)


@breaks("to(device) does not return the adapter")
class MovesAndIsGone(Whole):
    """A baseline."""

    def to(self, device):
        super().to(device)


@breaks("to(device) leaves means where it is")
class StaysBehind(Whole):
    """A baseline."""

    def to(self, device):
        return self


@breaks("not fitted, its save() raises nothing; raise the DataError of one line")
class SavesNothing(Whole):
    """A baseline."""

    def save(self, path):
        return super().save(path) if hasattr(self, "means") else path


@breaks(
    "given features of another width than those of the fit it raises nothing; raise the CapabilityError of one line"
)
class CutsToWidth(Whole):
    """A baseline."""

    def logits(self, batch):
        batch = Batch.of(batch)
        narrow = (
            batch.features if batch.features is None or not hasattr(self, "dim_") else batch.features[:, : self.dim_]
        )
        return super().logits(replace(batch, features=narrow))
