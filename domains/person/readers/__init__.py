"""The kinds of sets that are read, each in a file of its own; the first that knows a path reads it."""

from __future__ import annotations

from ..reading import SetFormat
from .attribute_tables import ATTRIBUTE_TABLE
from .camera_folders import CAMERA_FOLDERS
from .camera_names import CAMERA_NAMES
from .caption_lists import CAPTION_LISTS
from .celeba import CELEBA
from .cuhk03 import CUHK03
from .face_captions import FACE_CAPTIONS
from .identity_folders import IDENTITY_FOLDERS
from .market_attributes import MARKET_ATTRIBUTES
from .msmt17 import MSMT17
from .people_tables import PEOPLE_TABLES

FORMATS: tuple[SetFormat, ...] = (
    *(CAMERA_NAMES, MSMT17, CUHK03, FACE_CAPTIONS, PEOPLE_TABLES, CAPTION_LISTS, CAMERA_FOLDERS, IDENTITY_FOLDERS),
    *(MARKET_ATTRIBUTES, CELEBA, ATTRIBUTE_TABLE),
)
