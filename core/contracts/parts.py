"""What a method has besides its own: options that several methods share, and what is done by them.

A part is a frozen dataclass. `weighting = has(ClassWeighting)` in the body of a method puts the part's options before
the method's own, so that users, files and pages see one flat list; `self.weighting` is the part with their values.

The parts: how unequal classes count, which of equally good settings is taken, how images are augmented; and how a
trained head comes to count classes alike.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

import torch
from torch import Tensor

from ..errors import ConfigError
from ..metrics.classification import class_weights, val_score
from .features import FeatureSet
from .images import CropTransform
from .options import option, require

P = TypeVar("P", bound="Part")
AUTO = "auto"
"""Not given: our default, or what is published where published settings (a preset) are asked for."""
BALANCED, NONE = "balanced", "none"
OFFSET_FOLDS = 5
"""Into which a support is split where offsets of classes are learned."""
OFFSET_RIDGE, OFFSET_STEPS = 1e-2, 100
"""Of `balancing_offsets`: the weight of squared offsets beside a mean cross-entropy, and the steps of L-BFGS."""
PLATEAU, PUBLISHED = "plateau", "published"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Base of parts. Fields made by `option` are options of the method; other fields are what `has` says of it.

    Class attributes:
        published: options -> what papers have where our defaults differ.
    """

    published: ClassVar[Mapping[str, Any]] = {}

    def settled(self, adapter: Any) -> dict[str, Any]:
        """Options that are settled when an adapter is built, with their values: what "auto" is then.

        Raises:
            ConfigError: options that do not go together.
        """
        return {}

    @property
    def needs(self) -> frozenset[str]:
        """What a fit needs because of these options, a subset of `NEEDS`."""
        return frozenset()


def has(kind: type[P], **facts: Any) -> P:
    """A part of a method, to be written into its class. A subclass that writes it anew has other facts.

    Args:
        kind: of the part.
        facts: its fields that are no options.
    """
    return cast(P, _Has(kind, facts))


def declared_parts(cls: type) -> dict[str, _Has]:
    """The parts of a method by their attributes, those of its bases first."""
    attributes = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {name: value for name, value in attributes.items() if isinstance(value, _Has)}


def part_of(method: Any, kind: type[P]) -> P | None:
    """The part of this kind that a method has, or its class, with the defaults of options; None where it has none."""
    parts = declared_parts(method if isinstance(method, type) else type(method))
    names = [name for name, each in parts.items() if issubclass(each.kind, kind)]
    return getattr(method, names[-1]) if names else None


def put_options(cls: type, fixed: Mapping[str, Any]) -> None:
    """Make the options of the parts that a class body names fields of the class, which is to become a dataclass. An
    option that the body declares itself, or only its default, has the place of the part's. Of a part that a base has
    too the options stay; its facts may be class attributes for two more releases.

    Args:
        fixed: options of bases that the class does not have -> their values.
    """
    own = inspect.get_annotations(cls)
    of_bases = {name: part for base in reversed(cls.__mro__[1:]) for name, part in declared_parts(base).items()}
    for attribute, part in of_bases.items():
        if facts := {name: vars(cls)[name] for name in part.names_of_facts if name in vars(cls)}:
            cure = f"{attribute} = has({part.kind.__name__}, {', '.join(f'{name}=...' for name in facts)})"
            warnings.warn(f"{cls.__name__} has facts of a part: write {cure}", DeprecationWarning, stacklevel=4)
            setattr(cls, attribute, _Has(part.kind, {**part.facts, **facts}))
    kinds: dict[str, Any] = {}
    for attribute, part in [(name, value) for name, value in vars(cls).items() if isinstance(value, _Has)]:
        hints, inherited = get_type_hints(part.kind), of_bases[attribute].options if attribute in of_bases else {}
        for name, of_part in part.options.items():
            if name in inherited:
                continue
            kinds[name], default = hints[name], vars(cls).get(name, of_part.default)
            if not isinstance(default, Field):
                made = copy.copy(of_part)
                made.default = default
                setattr(cls, name, made)
    for name, value in fixed.items():
        setattr(cls, name, value)
    if kinds or fixed:
        cls.__annotations__ = {**kinds, **own, **dict.fromkeys(fixed, ClassVar)}


class _Has:
    """What `has` leaves in a class: read from a method, it is the part with the values of the method's options."""

    def __init__(self, kind: type[Part], facts: Mapping[str, Any]):
        self.kind, self.facts = kind, facts
        self.options = {each.name: each for each in fields(kind) if "option" in each.metadata}
        self.names_of_facts = [each.name for each in fields(kind) if each.name not in self.options]

    def __get__(self, method: Any, cls: type) -> Part:
        source = cls if method is None else method
        return self.kind(**self.facts, **{name: getattr(source, name) for name in self.options})


@dataclass(frozen=True, kw_only=True)
class ClassWeighting(Part):
    """Whether each class counts alike, however many images it has.

    Published methods are made for equally many images per class; where they are, the option changes nothing. In a built
    method `class_weight` is "balanced" or "none".
    """

    published: ClassVar[Mapping[str, Any]] = {"class_weight": NONE}

    class_weight: str = option(
        AUTO,
        "balanced: all classes count alike; none: all images do; auto: none with a preset, else balanced",
        choices=(AUTO, BALANCED, NONE),
    )

    def settled(self, adapter: Any) -> dict[str, Any]:
        return {"class_weight": NONE if adapter.as_published else BALANCED} if self.class_weight == AUTO else {}

    @property
    def balanced(self) -> bool:
        """Whether each class counts alike."""
        return self.class_weight == BALANCED

    def class_weights(self, labels: Tensor, num_classes: int) -> Tensor | None:
        """(C,) weights by which each class counts alike, where it does; None where all images count alike: by the
        option, since all classes have equally many, or since images have several labels."""
        return class_weights(labels, num_classes) if self.balanced and labels.ndim == 1 else None

    def val_score(self, logits: Tensor, labels: Tensor) -> float:
        """What settings are chosen by: `val_score` of (V, C) logits, balanced where classes count alike."""
        return val_score(logits, labels, self.balanced)

    def priors_of(self, labels: Tensor, num_classes: int) -> Tensor | None:
        """What a trained head adds to its logits in training: `log_priors` where classes count alike, else None."""
        return log_priors(labels, num_classes) if self.balanced else None

    def counts_unequal(self, support: FeatureSet, num_classes: int) -> bool:
        """Whether each class counts alike and has another number of images than others."""
        return self.class_weights(support.labels, num_classes) is not None

    def cross_fitted_offsets(
        self,
        support: FeatureSet,
        num_classes: int,
        seed: int,
        logits_of: Callable[[FeatureSet, FeatureSet], Tensor],
        count: int | None = None,
    ) -> Tensor | None:
        """(C,) what a trained head adds to its logits so that it keeps rare classes on images that it did not learn
        from: `balancing_offsets` of cross-fitted logits.

        A trained head memorises the few images of a rare class, so that priors added in training no longer help it on
        others, and the logits of the class fall behind there, the more so the fewer images it has. The offsets come
        from fits at the settings that were chosen, each of which leaves out a fold of the support. The val score of a
        fit is the score with its offsets.

        Args:
            support: what the head learned from.
            seed: fixes the folds.
            logits_of: (images to learn from, others) -> (n, C) logits of these.
            count: of the folds; None: `OFFSET_FOLDS`.

        Returns:
            None where classes have equally many images or do not count alike, and where most of them have a single
            image.
        """
        labels, logits = support.labels, []
        parts = support.folds(count or OFFSET_FOLDS, seed) if self.counts_unequal(support, num_classes) else []
        if labels is None or not parts:
            return None
        for held in parts:
            kept = torch.ones(len(support), dtype=torch.bool)
            kept[held] = False
            logits.append(logits_of(support.select(kept.to(support.features.device)), support.select(held)))
        return balancing_offsets(torch.cat(logits), labels[torch.cat(parts).to(labels.device)])


@dataclass(frozen=True, kw_only=True)
class Ties(Part):
    """Which of several settings is taken that are equal on val. In a built method "plateau" or "published"."""

    published: ClassVar[Mapping[str, Any]] = {"ties": PUBLISHED}

    ties: str = option(
        AUTO,
        "among settings equal on val: the plateau's middle, or the first; auto: published with a preset",
        choices=(AUTO, PLATEAU, PUBLISHED),
    )

    def settled(self, adapter: Any) -> dict[str, Any]:
        return {"ties": PUBLISHED if adapter.as_published else PLATEAU} if self.ties == AUTO else {}


@dataclass(frozen=True, kw_only=True)
class RandomCrops(Part):
    """How images are randomly cropped and flipped for a training.

    Args:
        published_crop: shares of an image's area that the published method's random crop keeps; None where it
            publishes none.
        published_randaugment: whether it publishes RandAugment on top of that.
    """

    published_crop: tuple[float, float] | None = None
    published_randaugment: bool = False
    crop_scale: tuple[float, float] | None = option(
        None, "shares of an image's area that random crops keep; none: as published, or milder", above=0, high=1
    )

    def settled(self, adapter: Any) -> dict[str, Any]:
        ordered = self.crop_scale is None or self.crop_scale[0] <= self.crop_scale[1]
        require(ordered, "crop_scale", self.crop_scale, "give two shares with 0 < smallest <= largest <= 1")
        return {}

    def training_transform(self, transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A training transform, augmenting as this method does: with the crop of `crop_scale`, or the published one
        where no domain says what is safe for such images.

        Raises:
            ConfigError: `crop_scale` is given, and the transform has no crop.
        """
        crop = transform if isinstance(transform, CropTransform) else None
        if self.crop_scale is not None and crop is None:
            raise ConfigError("option crop_scale: this domain's augmentation has no crop that it could change")
        free = crop is not None and crop.safe_crop is None
        scale = self.crop_scale or (self.published_crop if free else None)
        if crop is None or not (scale or (free and self.published_randaugment)):
            return transform
        crop = crop if scale is None else crop.with_crop(scale)
        return (crop.with_randaugment() or crop) if free and self.published_randaugment else crop


@dataclass(frozen=True, kw_only=True)
class StoredViews(RandomCrops):
    """How many views of each image are learned from, of a stored pool of augmented ones (`FeatureSet.views`); where
    there are none, it is the image as it is. A method has "views" in `needs`."""

    views: int = option(
        10,
        "augmented views of each image to learn from, where there are any; 0 for the image itself",
        low=0,
        high=10_000,
    )

    @property
    def fresh(self) -> bool:
        """Whether new views are encoded in every epoch."""
        return False

    @property
    def pooled(self) -> int:
        """How many stored views of each image a fit reads."""
        return self.views

    def views_note(self, support: FeatureSet) -> str:
        """What was trained on, in words, for `FitReport.notes`."""
        if self.views and support.views is not None:
            return f"trained on {min(self.views, support.views.shape[1])} augmented views per image"
        return "trained on features of the images as they are, without augmented views"


@dataclass(frozen=True, kw_only=True)
class TrainingViews(StoredViews):
    """Views of each image that are new in every epoch, as published, or by default the stored ones in turn.

    `EpochViews` (`core/training/epoch_views.py`) encodes new ones, of the resource `images`.

    Args:
        averages_views: whether the stored ones are read besides, for the keys of a cache.
    """

    averages_views: bool = False
    fresh_views: bool = option(
        False, "encode new views of each image in every epoch, as published; no: use stored ones"
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"images"}) if self.fresh else frozenset()

    @property
    def fresh(self) -> bool:
        """Whether new views are encoded in every epoch; `views=0` asks for none of any kind."""
        return self.fresh_views and self.views > 0

    @property
    def pooled(self) -> int:
        return self.views if self.averages_views or not self.fresh else 0

    def views_note(self, support: FeatureSet) -> str:
        if self.fresh:
            return "trained on a new augmented view of each image in every epoch, none of them stored"
        return super().views_note(support)


def log_priors(labels: Tensor, num_classes: int) -> Tensor | None:
    """(C,) log shares of the classes; None where all classes with images have equally many, or labels are several.

    Added to the logits while a classifier trains, they are the logit adjustment of Menon et al. (Long-tail learning via
    logit adjustment, 2020, arXiv 2007.07314): what is learned minimises the balanced error. A class without images
    counts as one with the fewest.

    Args:
        labels: (N,) class indices, or (N, C).
        num_classes: C.
    """
    if labels.ndim != 1 or class_weights(labels, num_classes) is None:
        return None
    counts = torch.bincount(labels, minlength=num_classes)
    counts = counts.clamp(min=int(counts[counts > 0].min()))
    return (counts / counts.sum()).log()


def balancing_offsets(logits: Tensor, labels: Tensor) -> Tensor:
    """(C,) what is to be added to the logits of classes, so that those of images that were not learned from fit their
    labels, each class counting alike.

    What learns a class of few images fits these, and its logits on other images fall behind: more so the fewer it has.
    At one factor common to all logits, the offsets have the least balanced cross-entropy, held near 0 by a ridge. A
    class without such images gets the offset of the one that has the fewest.

    Args:
        logits: (N, C) of images that were not learned from.
        labels: (N,) class indices.
    """
    counts = torch.bincount(labels, minlength=logits.shape[1]).cpu()
    seen = counts > 0
    offsets = torch.zeros(len(counts), dtype=torch.double)
    if seen.sum() < 2:
        return offsets.to(logits)
    known, places = logits.detach()[:, seen.to(logits.device)].double().cpu(), seen.cumsum(0)[labels.cpu()] - 1
    spread = float(known.std()) + 1e-12
    log_factor = torch.zeros((), dtype=torch.double, requires_grad=True)
    shifts = torch.zeros(known.shape[1], dtype=torch.double, requires_grad=True)
    weights = (len(labels) / (seen.sum() * counts[seen])).double()[places]  # (N,) of mean 1
    optimizer = torch.optim.LBFGS([log_factor, shifts], max_iter=OFFSET_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        each = torch.nn.functional.cross_entropy(log_factor.exp() * known / spread + shifts, places, reduction="none")
        value = (weights * each).mean() + OFFSET_RIDGE * (shifts.square().sum() + log_factor.square())
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    fitted = shifts.detach() * spread / log_factor.detach().exp()
    offsets[seen] = fitted
    offsets[~seen] = fitted[counts[seen].argmin()]
    return offsets.to(logits)
