"""Whole-slide images: opened by OpenSlide, tissue told from background, and read tile by tile."""

from .file_kinds import slide_format as slide_format
from .file_kinds import slides_elsewhere as slides_elsewhere
from .options import SlideOptions as SlideOptions
