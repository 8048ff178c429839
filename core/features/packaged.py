"""Features of a real CLIP that come with vladapt, `--features sample`: its numbers in a minute, without a network.

209 photographs of COCO val2017 (Lin et al., 2014, 1405.0312) in 8 classes, as CLIP ViT-B/16 sees them (Liang et al.,
2022, 2203.02053, whose features these are). A photograph is of a class if four of its five captions name that class
alone; the text features of a class are the mean of captions of other photographs. `sample/README.md` has the licences.
"""

from __future__ import annotations

from pathlib import Path

from ..contracts.recipe import SAMPLE

FILE = Path(__file__).parent / "sample" / "coco8.npz"
NAME = "COCO, 8 classes"
LICENCE = "MIT (features; Liang et al., 2022), CC BY 4.0 (captions of COCO, of which the classes are made)"
NOTE = (
    "The sample holds a real CLIP's features of 209 photographs. Its 106 test images are too few to rank methods, and "
    "a new class needs the text tower: give --data and --backbone openai-vit-b-16"
)


def located(path: str | Path) -> Path:
    """The file that `path` means: of "sample" the packaged one."""
    return FILE if str(path) == SAMPLE else Path(path)
