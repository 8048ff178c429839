"""Fitted adapters of a problem, and what they changed."""

from __future__ import annotations

import torch

from vladapt import Batch, build_adapter

ALL = ("full", "lora", "lit")
QUICK = {"full": {"lr": 2e-3, "epochs": 3}, "lora": {"lr": 2e-2, "epochs": 3}, "lit": {"lr": 2e-3, "epochs": 3}}
TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")


def fitted(problem, name, seed=1, images=None, **options):
    adapter = build_adapter(name, **{**QUICK[name], **options})
    problem.fit(adapter, seed, images)
    return adapter


def weights(adapter, backbone):
    return adapter.adapted(backbone).model.state_dict()


def moved(adapter, backbone):
    """Names of the tensors that the fit changed."""
    base = backbone.model.state_dict()
    return {name for name, value in weights(adapter, backbone).items() if not torch.equal(value, base[name])}


def logits(adapter, problem):
    with torch.no_grad():
        return adapter.logits(Batch(pixels=problem.pixels(problem.images.val)))
