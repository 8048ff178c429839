"""Why a model says what it says: the labelled images nearest to a picture, and where in the picture the score comes
from."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"evidence": "overlaid"})
