"""Drawn images of a few colours and small backbones, as the methods that train whole towers have them."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

_spec = spec_from_file_location("weights_conftest", Path(__file__).parents[2] / "weights" / "conftest.py")
_weights = sys.modules[_spec.name] = module_from_spec(_spec)
_spec.loader.exec_module(_weights)

make_problem, toy_pairs = _weights.make_problem, _weights.toy_pairs
open_clip_resnet, small, hf_folder = _weights.open_clip_resnet, _weights.small, _weights._models.hf_folder


@pytest.fixture(scope="session")
def deep_clip(tmp_path_factory, small):
    """Towers of three blocks each."""
    from vladapt import load_backbone

    config = small.open_clip_config({"layers": 3}, {"layers": 3})
    return load_backbone(small.write_open_clip(tmp_path_factory.mktemp("deep"), config), device="cpu")
