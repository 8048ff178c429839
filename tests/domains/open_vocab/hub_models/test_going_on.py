"""A fit of a detector of transformers that was stopped goes on as if it had not been, and its run has the averaged
weights."""

import json
import math

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import numpy as np
import torch
from mmengine.model import ExponentialMovingAverage
from PIL import Image
from safetensors.torch import load_file

import vladapt
from vladapt.domains.open_vocab.hub_models.starting import AVERAGED_SOON
from vladapt.domains.open_vocab.modules.detectors.hf_detector import HFDetector

from . import tiny

STEPS, STOPPED_AT, RATE = 4, 3, 0.01
"""Of two epochs; in the second."""
DECAY = 0.9999


@pytest.fixture(scope="module")
def how(tmp_path_factory):
    """Two epochs of two steps of a tiny RT-DETRv2, with denoising queries, which are drawn by chance."""
    folder = tmp_path_factory.mktemp("going on")
    source = tiny.saved(folder / "source", *tiny.rt_detr_v2())
    categories = [{"id": number, "name": name} for number, name in enumerate(tiny.NAMES, 1)]
    for split, count in (("train", 4), ("test", 1)):
        listed, annotations, random = [], [], np.random.default_rng(count)
        for number in range(count):
            name = f"{split}{number}.png"
            Image.fromarray(random.integers(0, 255, (tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8)).save(folder / name)
            listed.append({"id": number, "file_name": name, "width": tiny.SIDE, "height": tiny.SIDE})
            box = {"bbox": [8 + number, 8, 24, 24], "area": 576, "iscrowd": 0, "category_id": number % 3 + 1}
            annotations.append({"id": number + 1, "image_id": number, **box})
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    options = {"epochs": STEPS // 2, "batch_size": 2, "lr": RATE, "workers": 0, "device": "cpu", "seed": 3}
    return {"domain": "open-vocab", "data": str(folder), "start": f"hf:{source}", **options}


@pytest.fixture(scope="module")
def whole(how, tmp_path_factory):
    """The weights of a fit that nothing stops, and those that its model had after each step."""
    after_each: list[dict[str, torch.Tensor]] = []
    update = ExponentialMovingAverage.update_parameters

    def noted(average, model):
        after_each.append({name: value.clone() for name, value in model.state_dict().items()})
        update(average, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExponentialMovingAverage, "update_parameters", noted)
        run = vladapt.fit(**how, out=str(tmp_path_factory.mktemp("whole"))).run
    return load_file(run / "adapter.safetensors"), after_each


def test_a_run_has_the_averaged_weights(whole):
    weights, after_each = whole
    assert len(after_each) == STEPS
    moved = 0
    for name, value in weights.items():
        if not value.is_floating_point():
            continue
        average = after_each[0][name].double()
        for step, each in enumerate(after_each[1:], start=1):
            share = 1 - DECAY * (1 - math.exp(-(1 + step) / AVERAGED_SOON))
            average += share * (each[name].double() - average)
        torch.testing.assert_close(value.double(), average, rtol=0, atol=1e-6)
        moved += bool((value - after_each[-1][name]).abs().max() > 5e-6)
    assert moved > 20


def test_a_fit_that_was_stopped_goes_on_to_the_same_weights(how, whole, tmp_path, monkeypatch):
    steps, loss = [], HFDetector.loss

    def stopped(detector, *batch):
        steps.append(len(steps))
        if len(steps) == STOPPED_AT:
            raise KeyboardInterrupt
        return loss(detector, *batch)

    monkeypatch.setattr(HFDetector, "loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        vladapt.fit(**how, out=str(tmp_path))
    run = vladapt.fit(**how, out=str(tmp_path), resume=True).run
    assert len(steps) == STEPS + 1  # the second epoch, not the first again
    weights = load_file(run / "adapter.safetensors")
    assert weights.keys() == whole[0].keys()
    for name, value in weights.items():
        assert torch.equal(value, whole[0][name]), name
