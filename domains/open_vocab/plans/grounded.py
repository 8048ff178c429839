"""mmdet's grounded detectors in a config: ours take their place, which are the same and have names for classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

GROUNDED = {"GLIP": "vladapt.GLIP", "GroundingDINO": "vladapt.GroundingDINO", "GLIPStyle": "vladapt.GLIP"}


def is_grounded(model: Mapping[str, Any]) -> bool:
    """Whether this is GLIP or Grounding DINO, mmdet's or ours."""
    return _kind(model) in GROUNDED


def with_class_names(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` of an mmdet config, so that it takes class names if it is a grounded one; else a copy."""
    changed = copy.deepcopy(dict(model))
    if is_grounded(changed):
        changed["type"] = GROUNDED[_kind(changed)]
    return changed


def _kind(model: Mapping[str, Any]) -> str:
    scope, _, name = str(model.get("type", "")).rpartition(".")
    return name if scope in ("", "mmdet", "vladapt") else ""
