"""The data of a fit, encoded: few-shot draws of them, and what judgements and further fits ask of them.

Whether they are images on a backbone or the rows of a features file makes no difference here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .features import PROJECTED, FeatureSet
from .items import Item
from .recipe import ALL

if TYPE_CHECKING:
    from ..runtime.progress import Reporter
    from .adapter import Adapter
    from .backbone import Backbone
    from .domain import Domain, Metric
    from .features import Batch, TextClassifier
    from .items import DomainData


VAL_SHOTS = 4
"""Images per class that hyper-parameters are chosen on, at most: min(K, 4), as CoOp and its successors publish."""
MOST_SHOTS = 16
"""The largest K that they publish; with more, all of val chooses."""


class NoValidation(FeatureSet):
    """The val of a fit that is to choose nothing, not even on images held out of the support."""

    chooses: ClassVar[bool] = False

    @classmethod
    def beside(cls, support: FeatureSet) -> NoValidation:
        """No rows, of the support's kind."""
        none = support.select([])
        return cls(**{field.name: getattr(none, field.name) for field in fields(FeatureSet)})


@dataclass
class Shots:
    """One few-shot draw as features, and the samples behind the support and val, where there are images. Without
    `searches` no setting is to be chosen, on val or on images held out of the support. `augment` makes the support's
    views, and pixels to train on; None is the domain's."""

    support: FeatureSet
    val: FeatureSet | None
    test: FeatureSet
    items: tuple[Item, ...] = ()
    val_items: tuple[Item, ...] = ()
    seed: int = 0
    searches: bool = True
    augment: Callable[..., Any] | None = None

    @property
    def val_of_fit(self) -> FeatureSet | None:
        """What a fit chooses settings on."""
        return self.val if self.searches else NoValidation.beside(self.support)


def val_images(shots: int | None, val_shots: int | str | None) -> int | None:
    """How many images per class settings are chosen on; None for all of val.

    Args:
        shots: images per class to learn from, None for all.
        val_shots: what the user says: a number, "all", or None for the published min(K, 4) up to 16 shots, and all
            beyond.
    """
    if val_shots is None:
        return None if shots is None or shots > MOST_SHOTS else min(shots, VAL_SHOTS)
    return None if val_shots == ALL else int(val_shots)


@dataclass
class Counts:
    """Images that the backbone ran on, and images whose features were in the store."""

    computed: int = 0
    cached: int = 0


class PreparedData(Protocol):
    """Data in their splits, on one backbone or as rows of a features file.

    Attributes:
        data: the items, each with its split.
        task: what they were read for.
        domain: what read them; None of a features file.
        backbone: None of a features file.
        given: resource name -> path.
        reading: options of the data's reader.
        reporter: what shows progress.
        counts: images that were read.
        skipped: (image, reason) of what could not be read.
        had_splits: whether the data came divided.
        notes: sentences on the data, for the user.
        templates: texts with `{}` for a class name.
        metrics: further ones of the domain's own.
        thumbnail: test row -> decoded image, or None where there are no images.
        resources: what the recipe names besides data and backbone.
        made_by: the fingerprint of the backbone of the features, or "".
        base: the run that the fit starts from, or None.
    """

    data: DomainData
    task: str
    domain: Domain | None
    backbone: Backbone | None
    given: Mapping[str, Any]
    reading: Mapping[str, Any]
    reporter: Reporter
    counts: Counts
    skipped: list[tuple[str, str]]
    base: Any
    had_splits: bool
    notes: list[str]
    templates: Sequence[str]
    metrics: Sequence[Metric]
    thumbnail: Callable[[int], Any] | None
    resources: Any
    made_by: str

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def classifier(self) -> TextClassifier:
        """The zero-shot text classifier of the data's classes."""

    @property
    def test(self) -> FeatureSet:
        """Features of the test split, without parts."""

    def draw(self, shots: int | None, seed: int, **how: Any) -> Shots:
        """Support, val and test features of one seed."""

    def augmented(self, shots: Shots, views: int, augment: Any) -> Shots:
        """The draw with augmented views of its support."""

    def with_val(self, shots: Shots) -> Shots:
        """The draw whose support has the images of val too, so that none are left to choose on."""

    def classifier_of(self, class_names: Sequence[str]) -> TextClassifier:
        """The text classifier of some classes."""

    def features(
        self, items: Sequence[Item], title: str, views: int = 0, seed: int = 0, tap: str = PROJECTED
    ) -> FeatureSet:
        """Features of some items, with augmented views where any are asked for; `title` names them for the progress,
        `tap` one of `TAPS`."""

    def of_ids(self, ids: Sequence[str], parts: bool = False) -> FeatureSet:
        """Features of some items by their ids, in that order."""

    def batches(self, adapter: Adapter, features: FeatureSet) -> Iterator[Batch]:
        """Rows of this data, with all that the adapter needs to predict."""

    def seen_through(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> PreparedData:
        """The same images, changed by a transform before the towers see them: `change` makes it of the one that there
        is. Nothing is stored of them. A features file has none."""

    def on(self, backbone: Backbone) -> PreparedData:
        """The same data on towers that a fit changed."""

    def again(self, data: DomainData, reporter: Reporter | None = None) -> PreparedData:
        """Other data, encoded in the same way, of which what is read is counted apart."""


def on_adapted(prepared: PreparedData, adapter: Adapter) -> PreparedData:
    """The data on the backbone that the adapter's logits are of: the same, unless it changed the towers."""
    return prepared if prepared.backbone is None else prepared.on(adapter.adapted(prepared.backbone))
