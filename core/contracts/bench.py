"""A benchmark set: images with a rule of scoring, in the files that they are published in, scored on any backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics.intervals import Difference, balanced_interval, paired_shares, share_interval
from .options import settle
from .shown import in_short

if TYPE_CHECKING:
    from .backbone import Backbone
    from .items import DomainData
    from .prepared import PreparedData

TEXTS_AT_ONCE = 4096
"""Whose features are held while class vectors are made."""


@dataclass(frozen=True, eq=False)
class BenchScore:
    """One number of a backbone on a set.

    Args:
        measure: "acc1", "mean_per_class_recall", "image_to_text/r5", ...
        value: a share in 0..1.
        count: images, or queries, that it is over.
        interval: [low, high] of 95 %; None where there is none.
        guessing: what guessing reaches; None where that is not known.
        part: of the set: a language, a kind of question; "" for the whole.
        published: where it was read -> the published value of the same tower on the same set; further ones come from
            the tables beside `core/bench/published.py`.
        right: (count,) bool, what is right; None of what is no share of right answers.
        units: (count,) int64, what is equal belongs together: captions of one image; None where each stands alone.
        labels: (count,) int64, the classes that `value` is the mean over; None of a plain share.
    """

    __repr__ = in_short

    measure: str
    value: float
    count: int
    interval: tuple[float, float] | None = None
    guessing: float | None = None
    part: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    right: Tensor | None = None
    units: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    def share(
        cls,
        measure: str,
        right: Tensor,
        *,
        units: Tensor | None = None,
        labels: Tensor | None = None,
        guessing: float | None = None,
        part: str = "",
    ) -> BenchScore:
        """The share of right answers, or with labels the mean over classes of their shares, with its interval.

        Args:
            right: (N,) bool. Other arguments as of the class.
        """
        right = torch.as_tensor(right).bool().cpu()
        if labels is None:
            value, (low, high) = float(right.double().mean()), share_interval(right, units)
        else:
            labels = labels.cpu()
            classes = labels.unique(return_inverse=True)[1]
            hits = torch.zeros(int(classes.max()) + 1, dtype=torch.float64).index_add_(0, classes, right.double())
            value = float((hits / classes.bincount()).mean())
            low, high = balanced_interval(right, labels, units)
        return cls(measure, value, len(right), (low, high), guessing, part, {}, right, units, labels)

    def with_published(self, further: Mapping[str, float]) -> BenchScore:
        """The same, with further published values."""
        return replace(self, published={**further, **self.published})

    def gain_over(self, other: BenchScore) -> Difference | None:
        """What it gains over the same score of another backbone, on the same images; None where these differ, or
        nothing is counted."""
        if self.right is None or other.right is None or self.right.shape != other.right.shape:
            return None
        return paired_shares(other.right, self.right, self.units, self.labels)


class BenchTowers(ABC):
    """One backbone with its texts and images, each of which goes through it once, ever.

    Attributes:
        backbone: whose model is built only where something is to be computed.
        seed: of what a set draws.
        skipped: (id, reason) of images that could not be read.
    """

    backbone: Backbone
    seed: int
    skipped: list[tuple[str, str]]

    @abstractmethod
    def images(self, data: DomainData) -> tuple[Tensor, list[int]]:
        """Features of images, as the backbone itself prepares them.

        Args:
            data: N items, each with an id of its own, and what decodes them.

        Returns:
            (M, D) unit rows on the CPU, and their M positions among the items, ascending: what cannot be read is left
            out.

        Raises:
            DataError: too many cannot be read.
        """

    @abstractmethod
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit rows on the CPU; equal texts have equal rows."""

    @abstractmethod
    def read(self, folder: Path) -> PreparedData:
        """A folder, or file, as `fit --data` reads it, whole for testing where it says no splits."""

    def class_vectors(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """(C, D) unit rows of C lists of texts: the mean of the unit features of each, made unit again."""
        means = []
        for some in _texts_at_once(prompts):
            features = self.texts([text for texts in some for text in texts])
            means += [rows.mean(dim=0) for rows in features.split(list(map(len, some)))]
        return F.normalize(torch.stack(means), dim=-1)


def _texts_at_once(prompts: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    """Some classes after the others, with about so many texts."""
    some: list[Sequence[str]] = []
    for texts in prompts:
        some.append(texts)
        if sum(map(len, some)) >= TEXTS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


@dataclass(eq=False, kw_only=True)
class BenchSet(ABC):
    """Base of all kinds of sets: one file in `core/bench/sets/` or in `benchmarks/` of a domain, one subclass, its
    options as `option` fields (`--set KIND.NAME=VALUE`), the paper in its docstring.

    Class attributes:
        kind: set by the registry, from the file or the entry point (`vladapt.benchmarks`).
        fallback: a kind is asked only for places that none with a lower number recognises; 0 but for plain images.
        drawn: whether it draws its images itself: `--data sample:KIND`.
        by_domain: whether a domain reads it, by the prompts of `--preset`, `--protocol` and `--language`.

    Attributes:
        folder: of the set, or its file; None where it is drawn.
    """

    kind: ClassVar[str] = ""
    fallback: ClassVar[int] = 0
    drawn: ClassVar[bool] = False
    by_domain: ClassVar[bool] = False

    folder: Path | None = field(default=None, init=False)

    def __post_init__(self):
        settle(self, f"benchmark '{self.kind}'")

    @classmethod
    @abstractmethod
    def recognises(cls, place: Path) -> bool:
        """Whether the files in a folder, or this file, are such a set; told by names, and little reading."""

    @property
    def title(self) -> str:
        """What the set is called in tables."""
        return self.kind if self.folder is None else self.folder.resolve().name

    @property
    def notes(self) -> list[str]:
        """Sentences for the user, once it is scored."""
        return []

    @property
    def published_as(self) -> str:
        """The name under which results are published; "" where there are none."""
        return ""

    @property
    @abstractmethod
    def size(self) -> int:
        """Its images; known after `check`."""

    @abstractmethod
    def check(self, towers: BenchTowers) -> None:
        """Read all but pixels, and raise what is missing before anything is computed. It is called once per backbone.

        Raises:
            DataError: files are missing, damaged or of another version. CapabilityError: the tower cannot be scored.
        """

    @abstractmethod
    def score(self, towers: BenchTowers) -> list[BenchScore]:
        """Its scores, in the order of the table. Memory stays flat but for features."""
