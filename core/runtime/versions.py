"""When, and with which versions, a run was made."""

from __future__ import annotations

import datetime
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

VERSIONS_OF = ("vladapt", "torch", "torchvision", "numpy", "scikit-learn", "mmengine", "torchmetrics")
WHERE_USED = ("mmcv", "mmdet", "mmseg")
"""Modules whose versions count where a run has imported them."""


def now() -> str:
    """Local time with its offset, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    for name in WHERE_USED:
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found
