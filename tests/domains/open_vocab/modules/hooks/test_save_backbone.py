"""The hook that saves a trained tower as a backbone; a training that uses it is in the tests of RegionCLIP and CLOC."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import HOOKS

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import CapabilityError


class Holder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.asked = []

    def save_backbone(self, folder):
        self.asked.append(folder)
        return folder


def runner_of(model, rank: int, work_dir):
    return SimpleNamespace(
        model=model, rank=rank, work_dir=str(work_dir), logger=SimpleNamespace(info=lambda line: None)
    )


def test_the_first_process_asks_the_model(tmp_path):
    hook, model = HOOKS.build({"type": "vladapt.SaveBackboneHook", "folder": "tower"}), Holder()
    hook.after_train(runner_of(model, 1, tmp_path))
    assert model.asked == []
    hook.after_train(runner_of(model, 0, tmp_path))
    assert model.asked == [tmp_path / "tower"]


def test_a_model_without_a_backbone_is_told(tmp_path):
    hook = HOOKS.build({"type": "vladapt.SaveBackboneHook"})
    with pytest.raises(CapabilityError, match="Linear has no backbone"):
        hook.after_train(runner_of(torch.nn.Linear(1, 1), 0, tmp_path))
