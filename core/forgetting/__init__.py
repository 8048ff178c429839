"""What a fit forgets, told by drawn things of every day that were named before it and are named after it."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "drawings.things": "draw",
    },
)
