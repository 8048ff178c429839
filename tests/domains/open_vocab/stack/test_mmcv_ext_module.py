"""Where `mmcv._ext` comes from, what it holds, and what it says of the rest."""

import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import mmcv
from mmcv import ops

from vladapt.core.errors import CapabilityError
from vladapt.domains.open_vocab.stack.import_hooks import EXTENSION, OperatorFinder, offer_operators, operators_are_ours
from vladapt.domains.open_vocab.stack.mmcv_ext import OPERATORS


def names_mmcv_asks_for():
    for path in Path(ops.__file__).parent.glob("*.py"):
        for names in re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", path.read_text(), re.DOTALL):
            yield from re.findall(r"'(\w+)'", names)


def test_every_operator_is_one_that_mmcv_asks_for_and_the_others_can_be_imported():
    asked = set(names_mmcv_asks_for())
    assert OPERATORS.keys() < asked
    assert all(callable(getattr(importlib.import_module(EXTENSION), name)) for name in asked)
    assert not hasattr(importlib.import_module(EXTENSION), "__wrapped__")


@pytest.fixture
def anew(monkeypatch):
    """`mmcv._ext` is imported again in the test, and as it was after it."""
    monkeypatch.delitem(sys.modules, EXTENSION, raising=False)
    monkeypatch.delattr(mmcv, "_ext", raising=False)
    monkeypatch.setattr(mmcv, "_ext", None, raising=False)


def test_a_compiled_one_wins(anew, monkeypatch, tmp_path):
    (tmp_path / "_ext.py").write_text("compiled = True\n")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert not operators_are_ours()
    assert importlib.import_module(EXTENSION).compiled
    sys.modules.pop(EXTENSION)


def test_ours_is_found_where_none_is_compiled(anew, monkeypatch, tmp_path):
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path)])
    importlib.invalidate_caches()
    assert operators_are_ours()
    assert importlib.import_module(EXTENSION).nms is OPERATORS["nms"]
    assert find_spec("mmcv._another") is None
    sys.modules.pop(EXTENSION)


def test_the_finder_is_one_and_last_in_line():
    offer_operators()
    offer_operators()
    ours = [isinstance(finder, OperatorFinder) for finder in sys.meta_path]
    assert sum(ours) == 1
    assert ours.index(True) > sys.meta_path.index(importlib.machinery.PathFinder)


@pytest.mark.skipif(not operators_are_ours(), reason="a compiled mmcv is installed")
def test_what_is_not_offered_says_so_on_use():
    with pytest.raises(CapabilityError, match=r"'min_area_polygons'.*install a compiled mmcv.*mmcv>=2.0.0rc4,<2.2.0"):
        ops.min_area_polygons(torch.rand(2, 18))


def test_mmcv_reports_how_it_was_built():
    assert isinstance(ops.get_compiler_version(), str) and isinstance(ops.get_compiling_cuda_version(), str)
