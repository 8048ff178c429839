"""Change between two dates: pairs and their masks read, a siamese head trained on any tower, maps of what changed."""

from ....core.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "drawn": "drawn_change_set",
        "masks": "masked_pair",
        "pairs": "Pair dates_of load_pair read_pair",
        "reading": "KIND read_changes read_new stretched_pairs",
        "target": "CHANGED CLASS_NAMES IGNORED UNCHANGED ChangeMask",
    },
)
