"""Methods that train tokens inside the towers, fitted on a problem, and what they changed."""

from __future__ import annotations

import torch

from vladapt import Batch, build_adapter

ALL = ("vpt", "maple", "prompt-src")
QUICK = {"epochs": 3, "lr": 0.05, "batch_size": 6}


def fitted(problem, name, seed=1, images=None, **options):
    adapter = build_adapter(name, **{**QUICK, **options})
    adapter.report = problem.fit(adapter, seed, images)
    return adapter


def logits(adapter, problem):
    with torch.no_grad():
        return adapter.logits(Batch(pixels=problem.pixels(problem.images.val)))


def plainly(problem):
    """Its images without augmentation."""
    from dataclasses import replace

    plain = problem.images.eval_transform
    return replace(problem.images, train_transform=lambda decoded, seed: plain(decoded))
