"""What the judgements of `eval --holistic` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place
from ..contracts.options import option
from ..errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

ALL = "all"
WORST = 10
"""Images of an axis that the model has wrong most often."""


def _images(value: Any) -> Any:
    """A number, or "all"."""
    if str(value).strip().lower() == ALL:
        return ALL
    if not str(value).strip().isdecimal() or int(value) < 1:
        raise ConfigError(f"give a number of test images, or '{ALL}'")
    return str(int(value))


@dataclass(eq=False, kw_only=True)
class HolisticJudgement(Judgement):
    """One side from which `--holistic` looks at a run, with the images it takes by default."""

    at: ClassVar = frozenset({EVAL})
    needs: ClassVar = frozenset({"labelled"})
    place: ClassVar = Place.DETAILS
    images: ClassVar[int] = 100
    holistic: bool = option(
        False, "also look at the run from further sides: corrupted and attacked images, columns that its answers follow"
    )
    holistic_images: str | None = option(
        None,
        "test images for each part of --holistic, or all; by default 100",
        parse=_images,
        metavar="N",
    )

    @property
    def asked(self) -> bool:
        return self.holistic

    def check_holistic(self) -> None:
        """Raise the ConfigError of a number of images without `holistic`."""
        if self.holistic_images is not None and not self.holistic:
            raise ConfigError("--holistic-images: only with --holistic; give both, or omit it")

    def __post_init__(self):
        super().__post_init__()
        self.check_holistic()

    def rows_of(self, fit: JudgedClassifier) -> list[int]:
        """Test images that are looked at, in their order: drawn by the seed of the fit where there are more."""
        import numpy as np

        count = len(fit.test)
        most = count if self.holistic_images == ALL else int(self.holistic_images or self.images)
        if count <= most:
            return list(range(count))
        return sorted(np.random.default_rng(fit.seed).permutation(count)[:most].tolist())


def worst_rows(rows: Sequence[int], wrong: Tensor) -> list[tuple[int, int]]:
    """(test row, how often it is wrong) of the images that are wrong most often, at most `WORST`.

    Args:
        rows: n test rows.
        wrong: (n, K) bool.
    """
    times = wrong.sum(dim=1)
    order = sorted(range(len(rows)), key=lambda at: (-int(times[at]), at))
    return [(int(rows[at]), int(times[at])) for at in order[:WORST] if times[at]]
