"""Which images to label, the pages on which they are labelled, and which labels look wrong."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"decisions": "DecisionFile", "local_page": "LocalPage"})
