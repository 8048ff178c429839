"""The data of a fit, encoded: what judgements and further fits ask of it, whether it has images or a features file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..runtime.progress import Reporter
    from .adapter import Adapter
    from .backbone import Backbone
    from .domain import Domain, DomainData, Item
    from .draws import Shots
    from .features import Batch, FeatureSet, TextClassifier
    from .metric import Metric


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

    def features(self, items: Sequence[Item], title: str, views: int = 0, seed: int = 0) -> FeatureSet:
        """Features of some items, with augmented views where any are asked for; `title` names them for the progress."""

    def of_ids(self, ids: Sequence[str], parts: bool = False) -> FeatureSet:
        """Features of some items by their ids, in that order."""

    def batches(self, adapter: Adapter, features: FeatureSet) -> Iterator[Batch]:
        """Rows of this data, with all that the adapter needs to predict."""

    def on(self, backbone: Backbone) -> PreparedData:
        """The same data on towers that a fit changed."""

    def again(self, data: DomainData, reporter: Reporter | None = None) -> PreparedData:
        """Other data, encoded in the same way, of which what is read is counted apart."""


def on_adapted(prepared: PreparedData, adapter: Adapter) -> PreparedData:
    """The data on the backbone that the adapter's logits are of: the same, unless it changed the towers."""
    return prepared if prepared.backbone is None else prepared.on(adapter.adapted(prepared.backbone))
