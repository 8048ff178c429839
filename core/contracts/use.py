"""A run used again, what may be asked of it, and what it gives: each option is the keyword and the flag of the commands
it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from .options import Option, option, options_of, tolerate_option
from .recipe import DATA, DEVICE, FEATURES, JUDGING, METHOD, OUTPUT, REDACT
from .run_info import FittedRun

ROWS, ANSWERS, HEAT_MAPS, MASKS, BOXES = "rows", "answers", "heat maps", "masks", "boxes"
"""What a task gives that kinds of output may be made of (`output_kind.py`)."""
PER_PATIENT = ("mean", "max")
"""How the probabilities of a patient's images are pooled."""
ON_DATA, ON_RUNS = ("evaluate", "export"), ("evaluate", "predict", "export")
"""Commands on a run that take a data set, and all of them."""
BATCH_SIZE = "images per batch through the backbone; measured by default"


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """What may be said where a run is used again: scored on other data, asked of new images, exported.

    Each option names the commands that take it, as a keyword and a flag. What is None was not given.
    """

    data: str | None = option(
        None,
        "data set: a folder or file, of which the test split is used if it has one; by default the run's own",
        metavar="PATH",
        group=DATA,
        commands=ON_DATA,
    )
    features: str | None = option(None, FEATURES, metavar="FILE", group=DATA, commands=ON_DATA)
    split: str = option(
        "test",
        "images to score: test (the default), val, train or all",
        metavar="NAME",
        group=DATA,
        commands=("evaluate",),
    )
    against: str | None = option(
        None,
        "another run of the same classes, which is scored on the same images and compared by DeLong's paired test",
        metavar="RUN",
        group=JUDGING,
        commands=("evaluate",),
    )
    batch_size: int | None = option(None, BATCH_SIZE, metavar="N", group=METHOD, commands=("predict",))
    workers: int | None = option(
        None, "threads that decode images, by default one per core", metavar="N", group=DATA, commands=ON_RUNS
    )
    tolerate: float = tolerate_option(1.0, group=DATA, commands=("predict",))
    resources: Mapping[str, str] | None = option(
        None, "name -> path of what some methods need besides images, in place of the run's own", commands=ON_RUNS
    )
    classes: Any = option(
        None,
        "other names to look for, for detection and segmentation: a,b,c, or a .txt or .json file",
        metavar="NAMES",
        group=DATA,
        commands=("evaluate", "predict"),
    )
    prompts: str | None = option(
        None,
        "boxes and points on the images, for models that outline what is shown: a .json file, image -> objects, or "
        "boxes as COCO has them",
        metavar="FILE",
        group=DATA,
        commands=("predict",),
    )
    masks_by: str | None = option(
        None,
        "for detection: a model of the Segment Anything family that outlines the boxes: hf:OWNER/NAME, hf:FOLDER, or a "
        "run of it",
        metavar="MODEL",
        group=OUTPUT,
        commands=("predict",),
    )
    top: int | None = option(
        None,
        "how many of the most likely classes to show per image; by default 3",
        metavar="K",
        group=OUTPUT,
        commands=("predict",),
    )
    threshold: float | None = option(
        None,
        "with two classes, name the finding from this probability on, with several labels each label; by default from "
        "the operating point of the run on, without one the likelier class, and each label from the probability that "
        "is best on the calibration rows. Of boxes, the least score; for --as coco, yolo and voc by default the one "
        "with the best F1 on val",
        metavar="P",
        group=JUDGING,
        commands=("predict",),
    )
    per_patient: str | None = option(
        None,
        "one answer per patient (or other group of images), of the mean or the largest of its images' probabilities, "
        "calibrated anew",
        metavar="|".join(PER_PATIENT),
        group=JUDGING,
        commands=ON_RUNS,
    )
    stream: bool | None = option(
        None,
        "treat the images as a stream, in sorted order: the run keeps what it learns from each",
        group=METHOD,
        commands=("predict",),
    )
    masks: bool | None = option(
        None, "with --as coco or yolo, also write the outline of each object", group=OUTPUT, commands=("predict",)
    )
    own_data: bool | None = option(
        None,
        "with --as coco, yolo or voc, also write the run's own annotated images, with their splits",
        group=OUTPUT,
        commands=("predict",),
    )
    tile: int | None = option(
        None,
        "look at images with a longer side in overlapping windows of N pixels, for detection and segmentation",
        metavar="N",
        group=DATA,
        commands=("predict",),
    )
    device: str = option("auto", DEVICE, metavar="NAME", group=METHOD, commands=(*ON_RUNS, "search"))
    reading: Mapping[str, Any] | None = option(
        None, "options of the domain's reader, in place of the run's own", commands=ON_RUNS
    )
    redact: bool = option(False, REDACT, group=OUTPUT, commands=("evaluate",))


@dataclass(frozen=True)
class Use(UseOptions):
    """A run used again.

    Args:
        run: the run.
        images: files and folders to predict.
        out: a folder for files of what was predicted.
        files: files to write rows into, as the suffix says (`FILE_KINDS`), or files of the domain's own.
        outputs: each `OutputKind` that is written into `out`, besides the files.
        explain: how each answer is explained, of `core/explanation/evidence.py`, or "auto".
        judging: options of the task's judgements by name.
    """

    run: FittedRun
    images: Sequence[str | Path] = ()
    out: str | Path | None = None
    files: Sequence[Path] = ()
    outputs: Sequence[Any] = ()
    explain: str | None = None
    judging: Mapping[str, Any] = field(default_factory=dict)

    def asking(self, wishes: Mapping[str, Any]) -> Use:
        """With what is wished, by name: options of a use, and all others, where they are given, of judgements."""
        options = {name: value for name, value in wishes.items() if name in USE}
        others = {name: value for name, value in wishes.items() if name not in USE and value is not None}
        return replace(self, **options, judging={**self.judging, **others})


USE: dict[str, Option] = {each.name: each for each in options_of(UseOptions)}
EVERYWHERE = frozenset({"split", "device", "reading", "redact", "tolerate"})
"""Options of a use that every task takes."""
USED = (*(name for name in USE if name not in EVERYWHERE), "out", "explain")
"""Fields of `Use` that only some tasks take."""


class Predicted(Protocol):
    """What a run says of new images.

    Attributes:
        skipped: (image, reason) of what could not be read.
        files: what was written.
    """

    skipped: Sequence[tuple[str, str]]
    files: list[Path]

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-able dict per image."""


@dataclass(frozen=True)
class ExportWishes:
    """What is asked of an export.

    Args:
        out: its folder, which must not be there yet.
    """

    out: Path = field(metadata={"option": None})
    format: str = option("onnx", "format of the graphs: onnx (the default)", metavar="onnx")
    int8: bool = option(False, "also write an 8-bit graph, which predict.py then uses")
    opset: int | None = option(None, "version of ONNX's operators; by default 18", metavar="N")


EXPORT = {each.name: each for each in options_of(ExportWishes)}


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: where it lies.
        facts: what export.json holds.
        notes: sentences for the user.
        lines: how far the graphs agree with the run, for the user.
    """

    folder: Path
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())
