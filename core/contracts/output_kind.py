"""A kind of output: files that `predict RUN IMAGES --out DIR --as KIND` makes of predictions.

`csv` is `core/outputs/csv.py`, `dicom-sr` is `domains/medical/outputs/dicom_sr.py`; other packages add kinds through
the entry point `vladapt.outputs`. A task says what it gives to be written, a kind what it is made of; both are compared
before anything is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .options import settle
from .use import ANSWERS, BOXES, HEAT_MAPS, MASKS, ROWS, Use

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from .items import Item
    from .task import Task


@dataclass(frozen=True)
class HeatMap:
    """Where in an image the score of a class comes from.

    Args:
        values: (H, W) float32 in 0..1 on the pixels of the decoded image.
        overlay: (H, W, 3) uint8, the map over the decoded image.
        target: the class.
        method: "grad-cam", "occlusion" or "rollout".
    """

    values: np.ndarray
    overlay: np.ndarray
    target: str
    method: str


@dataclass(frozen=True)
class LabelMap:
    """Structures that were outlined in one image or volume, on its own pixels.

    Args:
        values: (H, W) of an image, (X, Y, Z) of a volume in the order of `read_volume`: whole numbers.
        structures: name -> its numbers, of which regions that contain each other share some; all other numbers are
            background.
    """

    values: np.ndarray
    structures: Mapping[str, Sequence[int]]


class Answers(Protocol):
    """What a classifier says of N images (or volumes, studies, patients).

    Attributes:
        class_names: the C names.
        ids: N ids.
        probabilities: (N, C), rows summing to 1, or one probability per label.
        answers: (N, C) bool, the labels that are named where an image may have several; None with one label per image.
        called: (N,) the class that is named, of two classes that a threshold divides; None: the most likely.
        columns: what is further said of each: key -> N values. "threshold" is that of the called class, "thresholds"
            those of the labels.
        sources: id -> the items that it is said of: one image, the views of a study, the images of a patient.
        heat_map: id -> its heat map, None of those that have none, as where nobody asked for `HEAT_MAPS`.
        finding: which of two classes is the finding; None of others.
        notes: sentences for the user.
    """

    class_names: tuple[str, ...]
    ids: list[str]
    probabilities: Tensor
    answers: Tensor | None
    called: Tensor | None
    columns: Mapping[str, Sequence[Any]]
    sources: Mapping[str, Sequence[Item]]
    heat_map: Callable[[str], HeatMap | None]
    finding: str | None
    notes: list[str]


class Masks(Protocol):
    """What was outlined in N images or volumes.

    Attributes:
        ids: N ids.
        sources: id -> the items that it was outlined in.
        notes: sentences for the user.
    """

    ids: Sequence[str]
    sources: Mapping[str, Sequence[Item]]
    notes: list[str]

    def label_map(self, id: str) -> LabelMap:
        """What was outlined in one of them; made, or read, when it is asked for."""


@dataclass(eq=False, kw_only=True)
class OutputKind(ABC):
    """Base of all kinds of output: one file, one subclass, its options as `option` fields, given as `--as
    NAME:OPTION=VALUE`.

    Class attributes:
        ROWS, ANSWERS, HEAT_MAPS, MASKS, BOXES: what a task may give.
        name: set by the registry, from the file or the entry point.
        made_of: what a task must give for it: rows as of `Predicted`, `Answers`, these with a `heat_map`, `Masks`, or
            boxes: then `labels` are what the task made of its rows.
        packages: that must be installed -> the extra of this project that brings them.
        identifies: whether its files carry names and numbers of the people whose images these are; the command says so.
    """

    ROWS: ClassVar[str] = ROWS
    ANSWERS: ClassVar[str] = ANSWERS
    HEAT_MAPS: ClassVar[str] = HEAT_MAPS
    MASKS: ClassVar[str] = MASKS
    BOXES: ClassVar[str] = BOXES
    name: ClassVar[str] = ""
    made_of: ClassVar[str] = ROWS
    packages: ClassVar[Mapping[str, str]] = {}
    identifies: ClassVar[bool] = False

    def __post_init__(self):
        settle(self, f"output '{self.name}'")

    def check(self, use: Use, task: Task) -> None:
        """Raise what can be told before anything is read.

        Raises:
            ConfigError, CapabilityError: predictions of this run cannot be written so.
        """

    def check_sources(self, items: Sequence[Item]) -> None:
        """Raise what can be told of new images as they are listed, before any is decoded.

        Args:
            items: that are predicted.

        Raises:
            DataError: none of them, or one of them, cannot be written so.
        """

    @abstractmethod
    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        """Write the files, whole or not at all; returns them.

        Args:
            predicted: what the task gave, as `made_of` names it; a sentence for the user is appended to its `notes`.
            folder: that `--out` names; it is there.

        Raises:
            DataError: nothing can be written there.
        """
