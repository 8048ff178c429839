"""The kinds of sets that are read, each in a file of its own; the first that knows a path reads it."""

from __future__ import annotations

from ..reading import SetFormat
from .camera_names import CAMERA_NAMES

FORMATS: tuple[SetFormat, ...] = (CAMERA_NAMES,)
