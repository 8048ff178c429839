"""Objectives on attacked images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vladapt import build_loss
from vladapt.core.losses._adversarial import START

from .attacks import AttackedTower
from .comparison import compares
from .fixtures import Check, Fixtures, Reference

L2_START = 0.1
"""Share of the start that the fixture takes where the change has a length (`l2_start` in its settings)."""
NORMS = {"linf": ("eps", "step", 1.0), "l2": ("l2_eps", "l2_step", L2_START)}
"""The fixture's names of the radius and the step, and its share of the start."""


@compares("fare", "robust_training")
def fare(ref: Reference, f: Fixtures) -> Iterator[Check]:
    yield from trained_on(ref, "fare", {})


@compares("tecoa", "robust_training")
def tecoa(ref: Reference, f: Fixtures) -> Iterator[Check]:
    ref.require("tecoa_normalize", True)
    yield from trained_on(ref, "tecoa", {"scale": float(ref.setting("logit_scale"))})


def trained_on(ref: Reference, name: str, options: dict[str, Any]) -> Iterator[Check]:
    """The loss of a step, and its gradients, from pixels and the start of the attack on."""
    ref.require("momentum", 0.9)
    classes, labels = ref["text"].double().T, ref["labels"]
    for norm, (radius, step, share) in NORMS.items():
        eps = float(ref.setting(radius))
        how = {"norm": norm, "eps": eps, "step": float(ref.setting(step)), "steps": int(ref.setting("iters"))}
        loss, tower = build_loss(name, **how, **options), AttackedTower(ref, "model")
        loss.prepare(AttackedTower(ref, "original"))
        start = share * ref["start"].double() / (eps / 255 if norm == "linf" else eps)
        images, batch = ref["images"].double(), {START: start, "class_features": classes, "labels": labels}
        batch["pixels"] = tower.normalised(images)
        out = {**loss.further_outputs(batch, tower), "class_features": classes, "labels": labels}
        value = loss(out)["loss"]
        value.backward()
        yield ref.check(value, f"{name}.{norm}.loss")
        for key, parameter in tower.named_parameters():
            if f"{name}.{norm}.grad.{key}" in ref:
                yield ref.check(parameter.grad, f"{name}.{norm}.grad.{key}")


GROUPS = (fare, tecoa)
