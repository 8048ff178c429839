"""Features of images, computed once and kept by content; feature files; nearest rows."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "bag_sets": "BagFolder",
        "extract": "cores",
        "files": "load_image_features",
        "store": "FeatureStore",
        "table": "canonical_json",
    },
)
