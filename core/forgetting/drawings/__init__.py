"""Everyday things drawn by code: pictures that need no download and no licence, and that anyone can name.

The things are those of a first picture dictionary of which a few strokes and colours show what is meant. They were
chosen before any model saw them, and none was taken out, drawn otherwise or named otherwise for what a model made of
it; the drawings were changed only where a person would have been in doubt.
"""

from ...lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {"things": "OTHER_NAMES THINGS draw"},
)
