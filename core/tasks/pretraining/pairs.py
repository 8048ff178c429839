"""The pairs of a pre-training, in their splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...contracts.errors import DataError
from ...data.pairs.pair_set import PairSet
from ...data.verify import check_skipped


@dataclass(frozen=True)
class PairSplits:
    """Pairs to train on, and those held out.

    Args:
        whole: all pairs that were read.
        train: to train on.
        val: to choose the epoch on; None where there is none.
        test: to report on; None where there is none.
    """

    whole: PairSet
    train: PairSet
    val: PairSet | None
    test: PairSet | None

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return list(self.whole.skipped)

    @property
    def notes(self) -> list[str]:
        return list(self.whole.notes)

    def val_part(self, most: int) -> PairSet:
        """Val, or so many of its pairs spread evenly."""
        if len(self.val) <= most:
            return self.val
        return self.val.select(np.linspace(0, len(self.val) - 1, most).round().astype(int))

    def facts(self, path: str) -> dict[str, Any]:
        """For run.json and the report."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {
            "name": self.whole.name,
            "path": path if path == "sample" else str(Path(path).absolute()),
            "licence": self.whole.licence,
            "images": len(self.whole),
            "texts": int(self.whole.columns.captions.counts[self.whole.rows].sum()),
            "splits": {name: len(part) for name, part in parts.items() if part is not None},
        }


def read_pair_splits(
    path: str, seed: int, options: Mapping[str, Any], columns: Mapping[str, str] | None = None
) -> PairSplits:
    """Read pairs and split them by image, unless the data says how.

    Args:
        path: a file or folder, or "sample".
        seed: of the split.
        options: for `read_pairs`.
        columns: that losses ask for, see `read_pairs`.

    Raises:
        DataError: nothing usable there, more than 5 % of it broken, or no pairs to train on.
    """
    from ...data.pairs.reading import read_pairs

    whole = read_pairs(path, columns=columns, **{"seed": seed, **options})
    check_skipped(whole.skipped, whole.total)
    train = whole.split("train")
    if len(train) < 2:
        raise DataError(f"--data {path}: {len(train)} pairs to train on; give more, or mark more rows as train")
    return PairSplits(whole, train, _some(whole.split("val")), _some(whole.split("test")))


def _some(pairs: PairSet) -> PairSet | None:
    return pairs if len(pairs) > 1 else None
