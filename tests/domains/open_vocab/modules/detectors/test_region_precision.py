"""Region detectors in 16 bits, and as copies."""

from __future__ import annotations

import copy

import pytest
import torch

from vladapt.registry import MODELS

CONFIGS = {
    "alpha": {"type": "vladapt.AlphaCLIPRegions", "classes": "red shape, green shape, blue shape", "whole_share": 0.0},
    "regionclip": {
        "type": "vladapt.RegionCLIP",
        "concepts": "red shape, green shape, blue shape",
        "concept_templates": "photo",
    },
    "cloc": {"type": "vladapt.CLOC", "classes": "red shape, green shape, blue shape"},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_losses_in_bf16_are_near_those_in_32_bits(region_towers, packed, name, tower):
    model = MODELS.build({**CONFIGS[name], "backbone": region_towers[tower]})
    data = model.data_preprocessor(packed(0, 3), True)

    def losses() -> torch.Tensor:
        torch.manual_seed(1)
        return torch.stack(list(model(**copy.deepcopy(data), mode="loss").values()))

    expected = losses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0.6)
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_copy_stands_alone(region_towers, packed, name):
    model = MODELS.build({**CONFIGS[name], "backbone": region_towers["vit"]}).eval()
    twin = copy.deepcopy(model)
    before = twin.test_step(packed(0, 1))[0].pred_instances.scores
    for parameter in model.parameters():
        parameter.add_(1.0)
    torch.testing.assert_close(twin.test_step(packed(0, 1))[0].pred_instances.scores, before)
