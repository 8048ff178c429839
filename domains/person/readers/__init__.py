"""The kinds of sets that are read, each in a file of its own; the first that knows a path reads it."""

from __future__ import annotations

from ..reading import SetFormat
from .attribute_tables import ATTRIBUTE_TABLE
from .camera_names import CAMERA_NAMES
from .celeba import CELEBA
from .market_attributes import MARKET_ATTRIBUTES

FORMATS: tuple[SetFormat, ...] = (MARKET_ATTRIBUTES, CAMERA_NAMES, CELEBA, ATTRIBUTE_TABLE)
