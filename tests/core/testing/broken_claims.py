"""Methods that say of themselves what is not so, one rule broken by each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from broken_adapters import OF_TOWERS, Whole, breaks

from vladapt import FitReport, option


@breaks("cost_options names 'nothing', which is none of text")
class PassesNothing(Whole):
    """A baseline."""

    cost_options: ClassVar = frozenset({"nothing"})


@breaks(
    "its docstring names no paper: give title, year and arXiv id (2024, arXiv 2404.02285), or say that it is a baseline"
)
class OfNobody(Whole):
    """Class means."""


@breaks("needs 'descriptions', and without it raises nothing; raise the CapabilityError of one line")
class WithoutItsNeed(Whole):
    """A baseline."""

    needs: ClassVar = frozenset({"features", "descriptions"})

    def _check_resources(self, resources):
        resources.get("descriptions")

    def _fit(self, support, classifier, *, resources, **given):
        resources.get("descriptions")
        return super()._fit(support, classifier, resources=resources, **given)


@breaks("needs 'descriptions', and never reads it")
class NeverReads(Whole):
    """A baseline."""

    needs: ClassVar = frozenset({"features", "descriptions"})


@breaks("reads resources['captions'], which is neither in needs nor in optional")
class ReadsMore(Whole):
    """A baseline."""

    def _fit(self, support, classifier, *, resources, **given):
        resources.get("captions")
        return super()._fit(support, classifier, resources=resources, **given)


@breaks("optional names 'descriptions', and its fit never reads it")
class NotOptional(Whole):
    """A baseline."""

    optional: ClassVar = frozenset({"descriptions"})


@breaks("at_predict names 'boxes', and its logits are the same without")
class LooksAtNoBoxes(Whole):
    """A baseline."""

    at_predict: ClassVar = frozenset({"features", "boxes"})


@breaks("has a learning rate or epochs, and reports no trained parameters; name its tensors in trained")
@dataclass(eq=False, kw_only=True)
class TrainsUncounted(Whole):
    """A baseline."""

    lr: float = option(0.1, "learning rate", above=0)

    def _logits(self, batch):
        return super()._logits(batch) * self.lr


@breaks("option 'idle' changes no result; tried ...; name it in cost_options, or give settings in counts")
@dataclass(eq=False, kw_only=True)
class Idle(Whole):
    """A baseline."""

    idle: int = option(1, "nothing", low=0, high=10)


@breaks("option 'text' is in cost_options, and text=... changes the result")
class PassingCounts(Whole):
    """A baseline."""

    cost_options: ClassVar = frozenset({"text"})


@breaks("option 'bare' is a bare field; make it with option(default, help, ...)")
@dataclass(eq=False, kw_only=True)
class Bare(Whole):
    """A baseline."""

    bare: float = 0.5

    def _logits(self, batch):
        return super()._logits(batch) + self.bare


@breaks("for_classes() of 4 new classes gives logits (3, 3), or no finite numbers")
class OfTheOldClasses(Whole):
    """A baseline."""

    can: ClassVar = frozenset({"new_classes"})

    def for_classes(self, backbone, class_names, classifier=None):
        return self


@breaks(
    "cannot score new classes, and its for_classes() raises nothing; put 'new_classes' in can, or refuse in one line"
)
class CanUnsaid(Whole):
    """A baseline."""

    def for_classes(self, backbone, class_names, classifier=None):
        return self


@breaks("can learn pairs, and its fit_pairs() reports no trained parameters")
class LearnsNoPairs(Whole):
    """A baseline."""

    can: ClassVar = frozenset({"pairs"})

    def fit_pairs(self, source, backbone, **how):
        return FitReport("whole")


@breaks("cannot learn pairs, and its fit_pairs() raises nothing; put 'pairs' in can, or refuse in one line")
class LearnsPairsUnsaid(Whole):
    """A baseline."""

    def fit_pairs(self, source, backbone, **how):
        return FitReport("whole")


@breaks("is transductive, and fits the same whatever the test images are")
class NotTransductive(Whole):
    """A baseline."""

    transductive: ClassVar = True


@breaks("is experimental, and no note of its report says so")
class Unnoted(Whole):
    """A baseline."""

    experimental: ClassVar = "the formula"

    def fit(self, support, classifier, **given):
        report = super().fit(support, classifier, **given)
        return replace(report, notes=[])


@breaks("packages names 'peft', and it is fitted without that package")
class NeedsNoPackage(Whole):
    """A baseline."""

    packages: ClassVar = {"peft": "fine-tune"}


@breaks("on towers without prompt its check_towers() raises nothing", where=OF_TOWERS)
class AnyTowers(Whole):
    """A baseline."""

    backbone_needs: ClassVar = frozenset({"prompt"})

    def check_towers(self, backbone):
        pass


@breaks("at_predict names 'images', and its logits are the same without", where=OF_TOWERS)
class LooksAtNoImages(Whole):
    """A baseline."""

    at_predict: ClassVar = frozenset({"features", "images"})
