"""Runs as ONNX graphs in folders of their own, compared with the run they come from."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "agreement": "Agreement LARGEST_SHARE",
        "folder": "SCRIPT Session facts_of library",
        "graph": "Graph check_opset",
        "package": "check_free exported new_folder write_facts",
    },
)
