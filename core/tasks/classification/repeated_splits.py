"""The prepared data of a comparison on one split after another; features are computed once, whatever their role."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...contracts.prepared import PreparedData
from ...data.resplits import fold_split, resplit
from ...data.verify import FileHashes

SMALL = 300
"""Test images below which a comparison is repeated on other splits, unless it is told otherwise."""
REPEATS, REPEATS_OF_TOWERS = 10, 3
GIVEN = "The data name their test images, which are never split again: the spread is only that of the drawn shots"


@dataclass
class RepeatedSplits:
    """Splits of one data set.

    Args:
        prepared: on the first split.
        seed: of the first split.
        count: how many.
        folds: whether their test sets share out the data.
        asked: whether the user gave their number.
    """

    prepared: PreparedData
    seed: int
    count: int = 1
    folds: bool = False
    asked: bool = False
    _latest: tuple[int, PreparedData] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(
        cls, prepared: PreparedData, seed: int, splits: int | None, folds: int | None, towers: bool
    ) -> RepeatedSplits:
        """As many as are asked for; by default 10 where there are fewer than 300 test images (3 where towers are
        trained), else one. Splits that the data bring are kept.

        Args:
            splits, folds: as the user gave them.
            towers: whether a method trains towers.
        """
        few = len(prepared.data.split("test")) < SMALL
        count = folds or splits or ((REPEATS_OF_TOWERS if towers else REPEATS) if few else 1)
        asked = bool(folds or splits)
        if prepared.had_splits:
            return cls(prepared, seed, asked=asked)
        return cls(prepared, seed, count, bool(folds), asked)

    @property
    def notes(self) -> list[str]:
        """What a user should know of them."""
        images = len(self.prepared.data.split("test"))
        if self.prepared.had_splits:
            return [GIVEN] if self.asked or images < SMALL else []
        if self.count == 1:
            return [f"Compared on one test set of {images} images; --splits 10 shows what other test sets would give"]
        how = f"{self.count} folds" if self.folds else f"{self.count} splits into train, val and test"
        size = f"{len(self.prepared.data.items) // self.count} test images" if self.folds else f"{images} test images"
        why = "" if self.asked else f"; fewer than {SMALL} are too few for one split, and --splits 1 compares on one"
        return [f"Compared on {how}, with about {size} each{why}"]

    @property
    def test_over_train(self) -> float:
        """Test images of a split divided by all its others."""
        tested, every = len(self.prepared.data.split("test")), len(self.prepared.data.items)
        return 1 / (self.count - 1) if self.folds else tested / max(1, every - tested)

    def __getitem__(self, number: int) -> PreparedData:
        """The data on one split; the latest is kept."""
        if self.count == 1:
            return self.prepared
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._made(number)
        return self._latest[1]

    def _made(self, number: int) -> PreparedData:
        if number == 0 and not self.folds:
            return self.prepared
        options = {"seed": self.seed, "hashes": FileHashes()}
        if self.folds:
            data = fold_split(self.prepared.data, number, self.count, **options)
        else:
            data = resplit(self.prepared.data, number, **options)
        return replace(self.prepared, data=data)
