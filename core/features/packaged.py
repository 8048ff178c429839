"""Features of a real CLIP that come with vladapt, `--features sample`: its numbers in a minute, without a network.

500 photographs of COCO val2017 (Lin et al., 2014, 1405.0312), each with a caption, as CLIP ViT-B/16 sees them (Liang et
al., 2022, 2203.02053, whose features these are). Tasks on pairs read all of them. Tasks on classes read the 209 that
are of one of 8 classes: four of the five captions name that class alone; the text features of a class are the mean of
captions of other photographs. `sample/README.md` has the licences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..contracts.recipe import SAMPLE
from ..data.array_files import ArrayFile

FOLDER = Path(__file__).parent / "sample"
FILE, PAIRS = FOLDER / "coco8.npz", FOLDER / "coco500.npz"
NAME, NAME_OF_PAIRS = "COCO, 8 classes", "COCO, 500 pairs"
LICENCE = "MIT (features; Liang et al., 2022), CC BY 4.0 (captions of COCO, of which the classes are made)"
LICENCE_OF_PAIRS = "MIT (features; Liang et al., 2022), CC BY 4.0 (captions of COCO)"
NOTE = (
    "The sample holds a real CLIP's features of 209 photographs. Its 106 test images are too few to rank methods, and "
    "a new class needs the text tower: give --data and --backbone openai-vit-b-16"
)
NOTE_ON_PAIRS = (
    "The sample holds a real CLIP's features of 500 photographs with one caption each. Its 150 test images are too few "
    "to rank methods. Defaults were chosen on these pairs, so a gain is too good. New words need the text tower: give "
    "--data and --backbone openai-vit-b-16"
)


def located(path: str | Path) -> Path:
    """The file that `path` means: of "sample" the packaged one of classes."""
    return FILE if str(path) == SAMPLE else Path(path)


def located_pairs(path: str | Path) -> Path:
    """The file of pairs that `path` means: of "sample" the packaged one."""
    return PAIRS if str(path) == SAMPLE else Path(path)


def classes() -> dict[str, Any]:
    """Arrays of the packaged classes, whose images are rows of the packaged pairs."""
    classes, pairs = ArrayFile(FILE).load(), ArrayFile(PAIRS).load()
    rows = classes.pop("rows")
    return {**classes, **{name: pairs[name][rows] for name in ("image_features", "ids")}}
