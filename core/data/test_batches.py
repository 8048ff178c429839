"""Batches of test images with few classes, and streams whose classes come together, as StatA's evaluation draws them.

Realistic Test-Time Adaptation of Vision-Language Models, 2025, arXiv 2501.03729. Rows are those of the released code
for the same calls of numpy; its draw of Dirichlet shares has no seed there, and has one here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tasks(ABC):
    """One kind of tasks, each of one batch or of several after one another.

    Args:
        name: of the kind, for tables.
        what: in words.
        count: how many are published.
    """

    name: str
    what: str
    count: int

    @abstractmethod
    def drawn(self, labels: np.ndarray, count: int, seed: int) -> Iterator[list[np.ndarray]]:
        """The batches of each task, as rows.

        Args:
            labels: (N,) class indices of the test images.
            count: how many tasks.
            seed: fixes all draws.
        """


@dataclass(frozen=True)
class Whole(Tasks):
    """All test images at once: one task, whatever the count."""

    def drawn(self, labels: np.ndarray, count: int, seed: int) -> Iterator[list[np.ndarray]]:
        yield [np.arange(len(labels))]


@dataclass(frozen=True)
class FewClasses(Tasks):
    """Batches of a few of the classes.

    Args:
        low, high: how many classes, each number alike.
        size: images of a batch; fewer where the classes have no more.
    """

    low: int
    high: int
    size: int

    def drawn(self, labels: np.ndarray, count: int, seed: int) -> Iterator[list[np.ndarray]]:
        random = np.random.RandomState(seed)
        for _ in range(count):
            yield [few_class_batch(labels, self.low, self.high, self.size, random)]


@dataclass(frozen=True)
class TestStream(Tasks):
    """All test images in batches one after another, the images of a class near each other.

    Args:
        gamma: concentration of the Dirichlet distribution: the less, the more do classes come together; None for one
            class after the other.
        size: images of a batch.
    """

    gamma: float | None
    size: int

    def drawn(self, labels: np.ndarray, count: int, seed: int) -> Iterator[list[np.ndarray]]:
        random, shares = np.random.RandomState(seed), np.random.default_rng(seed)
        classes = len(np.unique(labels))
        for _ in range(count):
            if self.gamma is None:
                rows = separate_stream(labels, random)
            else:
                slots = max(1, min(len(labels) // self.size, classes))
                drawn = shares.dirichlet([self.gamma] * slots, classes)  # (C, slots)
                rows = correlated_stream(labels, drawn, random)
            yield full_batches(rows, self.size)


def few_class_batch(labels: np.ndarray, low: int, high: int, size: int, random: np.random.RandomState) -> np.ndarray:
    """Rows of some classes: K of them, K uniform from low to high, then rows of all of theirs without replacement, so
    that the sizes of classes follow the data.

    Args:
        labels: (N,) class indices.
        low, high: least and greatest K; all classes where there are no more.
        size: rows that are drawn; all where there are fewer.
        random: the generator.
    """
    present = np.unique(labels)
    wanted = random.randint(low, high + 1)
    places = random.choice(len(present), wanted, replace=False) if wanted < len(present) else range(len(present))
    pool = np.concatenate([np.flatnonzero(labels == present[place]) for place in places])
    rows = random.choice(pool, min(size, len(pool)), replace=False)
    random.shuffle(rows)
    return rows


def correlated_stream(labels: np.ndarray, shares: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """(N,) rows: those of each class, in order, shared out among slots, slot after slot, each shuffled.

    Args:
        labels: (N,) class indices.
        shares: (C, slots) of each class that is there, rows that sum to 1.
        random: the generator.
    """
    slots: list[list[np.ndarray]] = [[] for _ in range(shares.shape[1])]
    for label, of_class in zip(np.unique(labels), shares):
        rows = np.flatnonzero(labels == label)
        cuts = (np.cumsum(of_class)[:-1] * len(rows)).astype(int)
        for slot, part in zip(slots, np.split(rows, cuts)):
            slot.append(part)
    joined = [np.concatenate(slot) for slot in slots]
    for rows in joined:
        random.shuffle(rows)
    return np.concatenate(joined)


def separate_stream(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """(N,) rows: one class after the other, in an order that is drawn, each shuffled."""
    classes = np.unique(labels)
    random.shuffle(classes)
    return np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in classes])


def full_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """The rows in batches; an incomplete last one is dropped, unless there is no other."""
    whole = len(rows) // size
    return [rows[size * i : size * (i + 1)] for i in range(whole)] or [rows]


TASKS: tuple[Tasks, ...] = (
    Whole("all", "all test images at once", 1),
    FewClasses("1-4 of 64", "batches of 64 images, 1 to 4 classes", 1000, 1, 4, 64),
    FewClasses("2-10 of 64", "batches of 64 images, 2 to 10 classes", 1000, 2, 10, 64),
    FewClasses("5-25 of 64", "batches of 64 images, 5 to 25 classes", 1000, 5, 25, 64),
    FewClasses("5-25 of 1000", "batches of 1000 images, 5 to 25 classes", 1000, 5, 25, 1000),
    FewClasses("25-50 of 1000", "batches of 1000 images, 25 to 50 classes", 1000, 25, 50, 1000),
    FewClasses("50-100 of 1000", "batches of 1000 images, 50 to 100 classes", 1000, 50, 100, 1000),
    TestStream("stream, low", "batches of 128 one after another, low correlation (gamma 0.1)", 100, 0.1, 128),
    TestStream("stream, medium", "the same, medium correlation (gamma 0.01)", 100, 0.01, 128),
    TestStream("stream, high", "the same, high correlation (gamma 0.001)", 100, 0.001, 128),
    TestStream("stream, separate", "the same, one class after the other", 100, None, 128),
)
"""Kinds, sizes and counts as published."""
