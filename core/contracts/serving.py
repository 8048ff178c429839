"""A fitted model that answers requests: what a server needs to know of it (`core/serving/`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, DataError, LimitError, did_you_mean, one_line

MOST_NAMES = 1500
"""That a request may look for: all wait while their texts are encoded."""
PATIENT = "patient"
"""The one that all images of a request are of, where that is asked for."""


@dataclass(frozen=True)
class Wishes:
    """What a request asks for besides an answer; what is None was not given. A model takes some of them. All but
    `nearest` are asked of a `Use`.

    Args:
        top: classes per image.
        threshold: probability from which on an image has a label, where it may have several.
        coverage: of sets of classes.
        set_method: how sets are made.
        coverage_per: "class", where each class is to be held as often.
        max_error: share of the answers given that may be wrong.
        per_patient: "mean" or "max", where all images of the request are of one patient.
        nearest: how many of the labelled images that the model learned from to name beside each image.
        score: from which on a box is answered.
        classes: names to look for; any where the model's classes are texts, else some of its own.
    """

    top: int | None = None
    threshold: float | None = None
    coverage: float | None = None
    set_method: str | None = None
    coverage_per: str | None = None
    max_error: float | None = None
    per_patient: str | None = None
    nearest: int | None = None
    score: float | None = None
    classes: tuple[str, ...] | None = None

    @property
    def of_use(self) -> dict[str, Any]:
        """For `Use.asking`."""
        return {name: value for name, value in vars(self).items() if name != "nearest"}


@dataclass
class Sample:
    """One image of a request, from its file to what is said of it.

    Attributes:
        id: unique in this process; not what the client called it.
        source: how its model finds it.
        wishes: of its request.
        prepared: what its model takes, made by `Served.prepare`.
        answer: what its model gave, made by `Served.answer`; an error where it gave none.
        parts: those of its parts that decided, made by `Served.answer` too; None where that is not known.
    """

    id: str
    source: Any
    prepared: Any = None
    answer: Any = None
    wishes: Wishes = Wishes()
    parts: list[dict[str, Any]] | None = None


class Refused(NamedTuple):
    """An image that cannot be answered: its id, why, and whether that is its size alone, or no fault of the image."""

    id: str
    reason: str
    too_large: bool = False
    our_fault: bool = False

    @classmethod
    def of(cls, sample: Sample, error: Exception, our_fault: bool = False) -> Refused:
        """Of a sample whose decoder, or model, raised something."""
        return cls(sample.id, one_line(error), isinstance(error, LimitError), our_fault)


class NoneReadable(DataError):
    """None of some images could be read; `skipped` says why not, (id, reason) of each."""

    def __init__(self, skipped: Sequence[Sequence[Any]]):
        self.skipped = list(skipped)
        name, reason = skipped[0][0], str(skipped[0][1])
        super().__init__(f"no readable image among what was given; {name}: {reason.removeprefix(f'{name}: ')}")


@dataclass(frozen=True)
class Serving:
    """How a model is to be served.

    Args:
        device: "auto", "cpu", "cuda", ...
        threads: of one answer; None for as many as there are cores.
        resources: name -> path, in place of the run's own.
        max_pixels: most that are decoded of an image.
        max_bytes: most that the features of a sample's parts may have.
        training_ids: whether clients learn the names of labelled images.
    """

    device: str = "auto"
    threads: int | None = None
    resources: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = 64_000_000
    max_bytes: int = 64 << 20
    training_ids: bool = False


@dataclass(frozen=True)
class ServedFacts:
    """What a client needs to know of a model; JSON-able.

    Args:
        task: that it was fitted for.
        adapter: name of the method.
        class_names: C names.
        options: the `Wishes` that it takes.
    """

    task: str
    adapter: str
    class_names: Sequence[str]
    options: Sequence[str]


@dataclass(frozen=True)
class FinderFacts(ServedFacts):
    """And of one that finds things in images.

    Args:
        any_names: whether names that it was not trained on may be asked for.
        score: from which on what it finds is to be believed; None where it scores nothing.
    """

    any_names: bool
    score: float | None


@dataclass(frozen=True)
class ClassifierFacts(ServedFacts):
    """And of one that classifies images.

    Args:
        multilabel: whether an image may have several of the names.
        coverages: of the sets of classes to offer.
        unlike: whether the model can tell images unlike those of the fit.
        labelled: how many labelled images of the fit it can name.
    """

    multilabel: bool
    coverages: Sequence[float]
    unlike: bool
    labelled: int = 0


@dataclass(frozen=True)
class NumberFacts(ServedFacts):
    """And of one that answers with a number per image.

    Args:
        column: what the numbers are of.
        coverage: of their intervals; None where there are none.
    """

    column: str
    coverage: float | None = None


CLASSIFYING = ("top", "threshold", "coverage", "set_method", "coverage_per", "max_error", "per_patient", "nearest")
"""Wishes that ask for more than a label, or for less."""


class Served(ABC):
    """A model, loaded once. `samples` and `prepare` are called in several threads at once, `answer` in one.

    Attributes:
        name: for messages.
        facts: for clients.
        sizes: numbers of samples to answer at once that are worth trying.
        clock: what an answer costs in seconds: of the processor, which it does not share; a model on a device for which
            the processor only waits counts those of the wall.
    """

    name: str
    facts: ServedFacts
    sizes: Sequence[int]
    clock: Callable[[], float] = staticmethod(time.process_time)

    @abstractmethod
    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        """The samples of some files, not yet decoded, in order.

        Raises:
            DataError: there is none.
        """

    @abstractmethod
    def prepare(self, sample: Sample) -> None:
        """Decode a sample while its file is there; any error says why it cannot be."""

    @abstractmethod
    def answer(self, samples: Sequence[Sample]) -> None:
        """Answer prepared samples at once; of one that has no answer `answer` is the error."""

    def check(self, wishes: Wishes) -> None:
        """Raise the ConfigError of what no answer can hold; quick, since all requests wait for it."""
        for name, value in vars(wishes).items():
            if value is not None and name not in self.facts.options:
                near = did_you_mean(name, self.facts.options)
                raise ConfigError(f"--{name.replace('_', '-')}: not an option of this model ({near}); omit it")

    @abstractmethod
    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        """What is said of the answered samples of a request, as `vladapt predict --json` says it.

        Raises:
            DataError: none is answered.
        """

    @abstractmethod
    def examples(self, count: int) -> list[Sample]:
        """Prepared samples that show nothing, to measure with; none where they cannot be made up."""


def check_finding(wishes: Wishes, facts: FinderFacts) -> None:
    """Raise the ConfigError of a least score that is none, and of names that a model with names of its own lacks."""
    if wishes.score is not None and not 0 <= wishes.score <= 1:
        raise ConfigError(f"--score {wishes.score}: give a number between 0 and 1")
    if wishes.classes is None:
        return
    if not wishes.classes:
        raise ConfigError("--classes names no class; give names, comma-separated")
    if len(wishes.classes) > MOST_NAMES:
        raise ConfigError(f"--classes: {len(wishes.classes)} names; give {MOST_NAMES} at most")
    if facts.any_names:
        return
    if unknown := next((name for name in wishes.classes if name not in facts.class_names), None):
        raise ConfigError(
            f"--classes '{unknown}': not a class of this model; {did_you_mean(unknown, facts.class_names)}"
        )


def only_answered(samples: Sequence[Sample], skipped: Sequence[Refused]) -> tuple[list[Sample], list[Refused]]:
    """The samples with an answer, and all others.

    Raises:
        NoneReadable: there is none. ConfigError: what the request asks for cannot be given.
    """
    for sample in samples:
        if isinstance(sample.answer, ConfigError):  # of what was asked for
            raise sample.answer
    answered = [sample for sample in samples if not isinstance(sample.answer, Exception)]
    failed = [sample for sample in samples if isinstance(sample.answer, Exception)]
    ours = (not isinstance(sample.answer, DataError) for sample in failed)
    skipped = [*skipped, *(Refused.of(sample, sample.answer, fault) for sample, fault in zip(failed, ours))]
    if not answered:
        raise NoneReadable(skipped)
    return answered, skipped


def with_parts(answer: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """An answer with the parts that decided in the row of each sample."""
    parts = {sample.id: sample.parts for sample in samples}
    for row in answer["predictions"]:
        if (deciding := parts.get(row["id"])) is not None:
            row["parts"] = deciding
    return answer
