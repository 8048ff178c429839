"""Runs as ONNX graphs in folders of their own, compared with the run they come from."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "agreement": "Agreement",
        "graph": "Graph",
        "package": "NewExport",
        "scripts": "boxes maps pictures",
    },
)
