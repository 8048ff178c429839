"""The small models that the tests of backbones write, and a training set made of numbers."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # toy_pairs is also used in processes of their own

from toy_pairs import ToyPairs

_spec = spec_from_file_location("small_models", Path(__file__).parents[1] / "backbones" / "conftest.py")
_models = module_from_spec(_spec)
_spec.loader.exec_module(_models)

hf_folder, open_clip_resnet, small = _models.hf_folder, _models.open_clip_resnet, _models.small


@pytest.fixture
def toy_pairs():
    """`toy_pairs(count=24, broken=...)`."""
    return ToyPairs


@pytest.fixture(scope="session")
def small_clip_spec(write_clip) -> str:
    """With a narrow text tower: steps, copies and checkpoints of an embedding of 49,408 tokens are most of a small
    training's time."""
    return write_clip(width=8)


@pytest.fixture(scope="session")
def small_clip(small_clip_spec):
    """The backbone, D = 24."""
    from vladapt.core.backbones.load import load_backbone

    return load_backbone(small_clip_spec, device="cpu")
