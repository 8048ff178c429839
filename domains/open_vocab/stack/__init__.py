"""mmengine, mmdet and mmsegmentation from wheels alone: what they lack without a compiled mmcv, and with today's torch."""

from __future__ import annotations

from .finder import offer_operators

PACKAGES = ("mmcv", "mmdet", "mmseg")


def install() -> None:
    """Make mmdet and mmsegmentation importable; idempotent, and before any of them is imported."""
    offer_operators()
