"""Objectives, one per file; `build_loss(name)` finds them by file name."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "_draws": "Draws",
        "_hidden_words": "HiddenWords",
        "_info_nce": "info_nce",
        "_products": "products_option with_all",
    },
)
