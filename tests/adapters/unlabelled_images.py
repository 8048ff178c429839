"""The drawn images of the tests of trained towers, without their labels."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from vladapt import Batch


def fixtures_of(room: str):
    spec = spec_from_file_location(f"fixtures_of_{room}", Path(__file__).parent / room / "conftest.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_problem = fixtures_of("weights").make_problem


@dataclass(frozen=True)
class Unlabelled:
    """Images of C classes that differ by colour, and nothing that says which is which."""

    problem: object

    @property
    def backbone(self):
        return self.problem.backbone

    @property
    def images(self):
        return self.problem.images

    @property
    def unit(self) -> torch.Tensor:
        return self.problem.support.unit

    @property
    def pixels(self) -> torch.Tensor:
        return self.problem.pixels()

    def fit(self, adapter, seed=1, images=None, **resources):
        images = images or self.images
        given = {"images": replace(images, items=()), "unlabeled_images": images, **resources}
        problem = self.problem
        how = {"unlabeled": problem.support.without_labels(), "backbone": problem.backbone, "resources": given}
        return adapter.fit(None, problem.classifier, seed=seed, **how)

    def logits(self, adapter, towers=None) -> torch.Tensor:
        made = adapter.adapted(towers or self.backbone)
        with torch.no_grad():
            return adapter.logits(Batch(made.encode_image(self.pixels, normalize=False), pixels=self.pixels))


@pytest.fixture(scope="session")
def make_unlabelled(make_problem):
    """make_unlabelled(classes=3, shots=4)."""
    return lambda **how: Unlabelled(make_problem(**how))
