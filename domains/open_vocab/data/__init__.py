"""Reading of boxes and masks, their classes, and what of them is trained on."""

from .classes import check_names, choose_classes
from .detection import read_detection
from .few_shot import draw_shots
from .items_file import read_items, write_items
from .novel import NovelSplit, hold_out, split_novel
from .segmentation import outlines_as_masks, read_segmentation

__all__ = [
    "NovelSplit",
    "check_names",
    "choose_classes",
    "draw_shots",
    "hold_out",
    "outlines_as_masks",
    "read_detection",
    "read_items",
    "read_segmentation",
    "split_novel",
    "write_items",
]
