"""Which backbone a config stands on, and the same config on another."""

from __future__ import annotations

from typing import Any

from .walking import Node, nodes

VISION = "CLIPVisionBackbone"


def backbone_of(model: Node) -> str | None:
    """The spec of the first part of a model that names one; None where no part does."""
    return next((node["backbone"] for node in nodes(model) if isinstance(node.get("backbone"), str)), None)


def on_backbone(plan: Node, spec: str, task: str) -> None:
    """Put a plan on another backbone, in place: every part that names one, the pixels it takes, the neck's channels."""
    from ..modules.backbones.preprocessing import preprocessor_cfg

    model = plan["model"]
    for node in nodes(model):
        if isinstance(node.get("backbone"), str):
            node["backbone"] = spec
    given = model.get("data_preprocessor")
    if isinstance(given, dict):
        wanted = preprocessor_cfg(spec, task)
        given.update({key: wanted[key] for key in ("mean", "std", "bgr_to_rgb")})
    _match_neck(model)


def _match_neck(model: Node) -> None:
    vision, neck = model.get("backbone"), model.get("neck")
    neck = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    if not (isinstance(vision, dict) and str(vision.get("type", "")).endswith(VISION) and isinstance(neck, dict)):
        return
    if isinstance(neck.get("in_channels"), (list, tuple)):
        neck["in_channels"] = list(_built(vision).out_channels)


def _built(vision: Node) -> Any:
    from ....registry import MODELS

    return MODELS.build({**vision, "type": f"vladapt.{VISION}"})
