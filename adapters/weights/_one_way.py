"""What methods share that train towers in one way alone: by a loss of their own, and the last weights count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE_WAY: Mapping[str, Any] = {
    "loss": None,
    "loss_options": None,
    "teacher": (),
    "training": None,
    "ema": None,
    "select": "last",
    "patience": None,
}
"""Options of `TowerAdapter` that they do not have, for `Adapter.fixed`."""
