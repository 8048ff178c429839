"""What is said of fitted models besides their plain scores, one judgement a file; see `core/contracts/judgement.py`."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__, {"finding_curves": "finding_of"})
