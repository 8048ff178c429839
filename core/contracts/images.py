"""How images reach towers: their size and channels, their crops, and those that are trained on, with their words.

The size is the side of a square, or height and width where they differ; channels are what images have beyond red, green
and blue, for towers that were trained on these three.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .options import TOLERATED
from .shown import in_short

if TYPE_CHECKING:
    from torch import Tensor

    from .items import Decoded, Item

ImageSize = int | tuple[int, int]
"""The side of a square, or (height, width) where they differ."""
SPELLED = re.compile(r"\s*(\d+)\s*[x×,]\s*(\d+)\s*", re.IGNORECASE)
RGB = 3


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """(H, W) of either form."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def as_image_size(value: Any) -> Any:
    """An `ImageSize` of what a user, a file or a library says: 224, "384x128", [384, 128]; whatever is none stays."""
    if isinstance(value, str) and (match := SPELLED.fullmatch(value)):
        value = int(match[1]), int(match[2])
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(side) is int for side in value):
        return value
    return value[0] if value[0] == value[1] else (value[0], value[1])


def size_in_words(size: ImageSize) -> str:
    """ "384 × 128", height first."""
    return " × ".join(map(str, height_and_width(size)))


@dataclass(frozen=True)
class Band:
    """What is known of a band.

    Args:
        sensor, code: the sensor, and what it calls the band ("sentinel-2", "B04"); "" where they are not known.
        common: what the band is called of any sensor ("red").
        wavelength, bandwidth: centre and width in nm; None where they are not known.
    """

    sensor: str = ""
    code: str = ""
    common: str = ""
    wavelength: float | None = None
    bandwidth: float | None = None


@dataclass(frozen=True)
class InputChannels:
    """Four or more channels of an image, for towers that were trained on red, green and blue.

    Args:
        names: of the channels in their order; the first three are what the tower sees as red, green and blue.
        start: "zero", the further channels change nothing until they are trained; "mean", they start with the mean of
            the weights for red, green and blue, and all channels are scaled by 3 / number of channels; "trained", in
            a file of weights that were trained on these channels.
        advice: what a user can give where nothing trains them, for messages.
        bands: what is known of each, for towers that take bands by their wavelengths or names; or none.
    """

    ZERO: ClassVar[str] = "zero"
    MEAN: ClassVar[str] = "mean"
    TRAINED: ClassVar[str] = "trained"
    STARTS: ClassVar[tuple[str, ...]] = (ZERO, MEAN)
    """How channels beyond the third may start in a tower that was trained on three."""

    names: tuple[str, ...]
    start: str = ZERO
    advice: str = "three channels"
    bands: tuple[Band, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def further(self) -> str:
        """Names of the channels after the first three."""
        return ", ".join(self.names[RGB:])

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON holds them."""
        return {**asdict(self), "names": list(self.names), "bands": [asdict(band) for band in self.bands]}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> InputChannels:
        """The channels that `facts` describes; KeyError or TypeError where it is damaged."""
        names, bands = tuple(map(str, facts["names"])), tuple(Band(**band) for band in facts.get("bands", ()))
        start, advice = str(facts.get("start", cls.ZERO)), str(facts.get("advice", cls.advice))
        return cls(names, start, advice, bands)

    def widened(self, values: Sequence[float]) -> tuple[float, ...]:
        """Means or deviations of red, green and blue -> of all channels, further ones with the mean of these."""
        return (*values, *[sum(values) / RGB] * (len(self) - RGB))

    def first_layer(self, rgb: Tensor) -> Tensor:
        """Weights (W, 3, k, k) of a layer that was trained on red, green and blue -> (W, C, k, k), started so."""
        weights = rgb.new_zeros((len(rgb), len(self), *rgb.shape[2:]))
        weights[:, :RGB] = rgb
        if self.start == self.MEAN:
            weights[:, RGB:] = rgb.mean(dim=1, keepdim=True)
            weights *= RGB / len(self)
        return weights


class CropTransform(ABC):
    """Base of transforms whose random crop can be changed; a method that publishes another crop asks for it."""

    @property
    def safe_crop(self) -> tuple[float, float] | None:
        """The shares of the area that a crop may keep of such images, as their domain says; None where any will do."""
        return None

    @abstractmethod
    def with_crop(self, scale: tuple[float, float]) -> CropTransform:
        """The same transform with a crop that keeps between `scale[0]` and `scale[1]` of the area."""

    def without_flip(self) -> CropTransform | None:
        """The same transform that mirrors no image, as captions that name sides want it; None where it mirrors none, or
        its mirroring is no matter of a choice."""
        return None

    @staticmethod
    def unflipped(transform: Any) -> Any:
        """Any transform, which mirrors no image where it can be asked not to."""
        return (transform.without_flip() if isinstance(transform, CropTransform) else None) or transform

    def with_randaugment(self) -> CropTransform | None:
        """The same transform with RandAugment after it, for methods that publish that; None where images do not stand
        it."""
        return None


@dataclass(frozen=True)
class TrainingImages:
    """The images behind a support set: what an adapter with "pixels" or "images" in `needs` finds in
    `resources["images"]`.

    Args:
        items: N samples, in the order of the support's rows.
        load: decodes one; raises DataError if it cannot.
        train_transform: augments: called as train_transform(decoded, seed=int) -> pixels (3, S, S), of a clip
            (T, 3, S, S); a pure function of both.
        eval_transform: decoded image -> pixels, without chance.
        prompts: C lists of texts, what is said of each class.
        negative: C lists of texts that say the class is absent, where images have several labels; or None.
        templates: texts with `{}` that prompts are made of, for classes to come.
        val: samples held out, for choosing an epoch.
        draw: (row, seed) -> the sample that an epoch sees in the place of an item, as of `Domain.drawer`; None: itself.
        workers: threads that decode where images are only encoded; None takes one per CPU core.
        amp: None, "bf16" or "fp16": the precision in which they are encoded where no tower is trained.
    """

    __repr__ = in_short

    items: Sequence[Item]
    load: Callable[[Item], Decoded]
    train_transform: Callable[..., Tensor]
    eval_transform: Callable[[Decoded], Tensor]
    prompts: Sequence[Sequence[str]]
    negative: Sequence[Sequence[str]] | None = None
    templates: Sequence[str] = ()
    val: Sequence[Item] = ()
    draw: Callable[[int, int], Item] | None = None
    workers: int | None = None
    amp: str | None = None


def _no_step(done: int, total: int, values: dict[str, Any]) -> None:
    """Progress that nobody waits for."""


def _no_message(line: str) -> None:
    """Words that nobody reads."""


LOG_FILE = "training.jsonl"


@dataclass(frozen=True)
class LogPlace:
    """Where a training writes its log, and what of a longer training came before it.

    Args:
        path: of the file (`core/training/log.py`); None writes none.
        steps, epochs: of earlier stages, which the log counts on from.
        stage: its number, from 1; None where a training has no stages.
    """

    path: Path | None
    steps: int = 0
    epochs: float = 0.0
    stage: int | None = None


@dataclass(frozen=True)
class TrainingPlace:
    """Where a training keeps its checkpoints, and who hears of it: `resources["place"]`.

    Args:
        folder: of the checkpoints, which several processes share; None keeps none.
        resume: go on from the newest whole checkpoint there.
        log: of the training; None: a file in the folder, if there is one.
        on_step: called after each step with (steps done, all steps, values).
        on_message: called with sentences about resuming.
        hooks: further hooks of mmengine's Runner, as its configs name them: {"type": "EmptyCacheHook", ...}.
        tolerate: share of the samples that may be unreadable.
    """

    folder: Path | None
    resume: bool = False
    on_step: Callable[[int, int, dict[str, Any]], None] = _no_step
    on_message: Callable[[str], None] = _no_message
    log: LogPlace | None = None
    hooks: Sequence[Mapping[str, Any]] = ()
    tolerate: float = TOLERATED

    def stage(
        self, number: int, *, total: int, steps: int = 0, epochs: float = 0.0, inside: str | None = None
    ) -> TrainingPlace:
        """The place of one of several stages: progress through all of them, and one log.

        Args:
            number: from 1.
            total: steps of all stages.
            steps, epochs: of earlier stages.
            inside: what the folder of its checkpoints is called in this one; None: this one.
        """

        def on_step(done: int, _: int, values: dict[str, Any]) -> None:
            self.on_step(steps + done, total, values)

        folder = self.folder if inside is None or self.folder is None else self.folder / inside
        path = None if self.folder is None else self.folder / LOG_FILE
        return replace(self, folder=folder, on_step=on_step, log=LogPlace(path, steps, epochs, number))
