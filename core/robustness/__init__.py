"""How images are changed that a model may meet, and what it loses by that."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"smooth_fields": "smooth_field"})
