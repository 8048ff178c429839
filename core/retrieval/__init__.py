"""Images or texts found by what they show: an index on disk, and queries by text, image or both."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "build": "IndexBuilder",
        "entries": "Entry",
        "image_reader": "ImageReader",
        "index": "Hit RetrievalIndex mixed",
        "kinds": "KINDS",
    },
)
