"""The small models that the tests of backbones write."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("small_models", Path(__file__).parents[2] / "backbones" / "conftest.py")
_models = module_from_spec(_spec)
_spec.loader.exec_module(_models)

small = _models.small
