"""Reading of boxes and masks, their classes, and what of them is trained on."""

from .classes import check_names as check_names
from .classes import choose_classes as choose_classes
from .detection import read_detection as read_detection
from .few_shot import draw_shots as draw_shots
from .items_file import read_items as read_items
from .items_file import write_items as write_items
from .novel import NovelSplit as NovelSplit
from .novel import hold_out as hold_out
from .novel import split_novel as split_novel
from .segmentation import outlines_as_masks as outlines_as_masks
from .segmentation import read_segmentation as read_segmentation
