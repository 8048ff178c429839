"""The example in every adapter's docstring runs, and gives what it says, on a small world of drawn images."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch
from world import World, draw

from vladapt import Batch, build_adapter
from vladapt.core.contracts.features import PRE_PROJECTION
from vladapt.core.contracts.resources import HeldPatchTokens
from vladapt.core.registry import adapter_class, catalogue
from vladapt.core.testing.towers import small_clip_with

ALL = sorted(catalogue.adapters())


@pytest.fixture(scope="module")
def names(small_clip):
    """What the examples use: `test` are features, `images` decoded ones, `pixels` preprocessed ones of the same 12."""
    world = World.of(small_clip, classes=3, shots=3)
    given, test = world.resources(), world.encode(world.items["test"])
    images = [draw(item) for item in world.items["test"]]
    mirrored = torch.from_numpy(np.eye(test.dim, given["further_backbones"][0].support.dim, dtype=np.float32))
    return {
        "build_adapter": build_adapter,
        "Batch": Batch,
        "backbone": small_clip,
        "classifier": world.classifier,
        "support": world.support(),
        "val": world.encode(world.items["val"]),
        "test": test,
        "images": images,
        "pixels": torch.stack([world.transform(image) for image in images]),
        "training": given["images"],
        "unlabelled": {
            "images": replace(given["images"], items=()),
            "unlabeled_images": replace(given["images"], items=world.items["test"]),
        },
        "captions": given["captions"],
        "sentences": given["descriptions"],
        "found": given["boxes"],
        "boxes": [given["boxes"][item.id] for item in world.items["test"]],
        "further": given["further_backbones"],
        "further_features": (test.features @ mirrored,),
        "hidden": given["pre_projection"],
        "patches": HeldPatchTokens(world.patches(world.items["support"])),
        "test_patches": world.patches(world.items["test"]),
        "test_hidden": world.encode(world.items["test"], PRE_PROJECTION).features,
    }


@pytest.mark.parametrize("name", ALL)
def test_the_example_runs(name, names):
    cls, said = adapter_class(name), []
    towers = {"backbone": small_clip_with(cls.answers_by)} if cls.answers_by else {}
    parts = {each: names[each].with_parts() for each in ("support", "val", "test")} if "parts" in cls.needs else {}
    example = doctest.DocTestParser().get_doctest(cls.__doc__, {**names, **parts, **towers}, name, None, None)
    assert len(example.examples) == 3 + (name == "s3a"), "build_adapter, fit and logits; words of its own"
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)
    assert type(example.globs["adapter"]) is cls and example.globs["adapter"].fitted_
    assert example.examples[-1].want == "torch.Size([12, 3])\n"
