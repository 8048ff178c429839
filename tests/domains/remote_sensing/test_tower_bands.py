"""A tower of four bands in change detection and pixel regression: what is widened, what trains it, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vladapt.core.backbones import load_backbone
from vladapt.core.contracts import InputChannels
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.tasks import build_model
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.changes.options import ChangeOptions
from vladapt.domains.remote_sensing.pixel_options import PixelOptions

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

BANDS = "nir,red,green,blue"
NAMES = ["blue", "green", "red", "nir"]


@pytest.fixture(scope="module")
def plans():
    """plans(folder, task, channels, **options): the plan of a fit on the rasters that `pairs` wrote."""
    backbone = load_backbone("embedded", device="cpu")

    def made(folder, task, channels, **options):
        from vladapt.domains.remote_sensing.changes import training
        from vladapt.domains.remote_sensing.number_maps import make_plan
        from vladapt.domains.remote_sensing.pixel_options import Asked

        data = RemoteSensing().read(folder, task, bands=BANDS)
        data = data.with_items([item.with_(split="train") for item in data.items])
        of_fit = {"backbone": "embedded", "batch_size": 2, "amp": None, "epochs": 1, "lr": None, "seed": 0}
        of_fit |= {"workers": None, "channels": channels}
        if task == "change":
            return training.make_plan(training.Asked(**of_fit), ChangeOptions(**options), data, backbone)
        return make_plan(Asked(**of_fit), PixelOptions(width=8, **options), data, backbone, {})

    return made


@pytest.fixture
def folder_of(write_raster, tmp_path):
    """folder_of(task): two rasters of four bands, 32 x 32 pixels, in the folders that the task reads."""

    def written(task):
        random, folders = np.random.default_rng(0), ("A", "B") if task == "change" else ("images",)
        for number in range(2):
            for name in folders:
                values = random.integers(0, 255, (4, 32, 32), np.uint8)
                write_raster(f"{task}/{name}/{number}.tif", values, names=NAMES, photometric="MINISBLACK", crs=None)
            if task == "change":
                write_raster(f"{task}/label/{number}.tif", np.eye(32, dtype=np.uint8)[None], crs=None)
            else:
                write_raster(f"{task}/targets/{number}.tif", random.random((1, 32, 32)).astype(np.float32), crs=None)
        return tmp_path / task

    return written


CHANNELS = InputChannels(("red", "green", "blue", "nir"))
TASKS = (("change", "tower", "encoder", "resnet-18"), ("pixel-regression", "tuned", "backbone", "resnet18"))


@pytest.mark.parametrize(("task", "option", "part", "resnet"), TASKS)
def test_the_tower_is_widened_and_the_layer_of_bands_learns_at_the_whole_rate(
    plans, folder_of, task, option, part, resnet
):
    plan = plans(folder_of(task), task, CHANNELS, **{option: "full"})
    model = build_model(plan.to_dict(), torch.device("cpu"))
    (name, layer), *more = [
        (name, module)
        for name, module in getattr(model, part).named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 4
    ]
    assert not more and bool((layer.weight[:, 3] == 0).all()) and layer.weight.requires_grad
    rates = plan.optim_wrapper.paramwise_cfg.custom_keys
    assert rates[f"{part}.{name}"].lr_mult == 1.0 and rates[part].lr_mult < 1.0
    pixels = torch.rand(1, 2, 4, 32, 32) if task == "change" else torch.rand(1, 4, 32, 32)
    other = pixels.clone()
    other[..., 3, :, :] = 0
    with torch.no_grad():
        layer.weight[:, 3] = layer.weight[:, 0]
        seen, unseen = model.eval()(pixels), model(other)
    assert not torch.allclose(*(each if torch.is_tensor(each) else each[0] for each in (seen, unseen)), atol=1e-4)


@pytest.mark.parametrize(("task", "option", "part", "resnet"), TASKS)
def test_bands_that_would_change_nothing_are_refused(plans, folder_of, task, option, part, resnet):
    folder = folder_of(task)
    with pytest.raises(CapabilityError, match=f"--{option} frozen: nir would change nothing"):
        plans(folder, task, CHANNELS, **{option: "frozen"})
    mean = InputChannels(CHANNELS.names, InputChannels.MEAN)
    frozen = plans(folder, task, mean, **{option: "frozen"})
    assert frozen.model[part].channels.start == "mean"
    with pytest.raises(ConfigError, match=f"--band-start mean: {resnet} starts from scratch"):
        plans(folder, task, mean, encoder=resnet, **({} if task == "change" else {option: "full"}))
    with pytest.raises(CapabilityError, match="name the bands"):
        plans(folder, task, None, **{option: "full"})


@pytest.mark.parametrize("task", ["change", "pixel-regression"])
def test_options_of_bands_that_are_not_there_are_refused(folder_of, task):
    with pytest.raises(ConfigError, match="is for four or more --bands"):
        RemoteSensing().read(folder_of(task), task, bands="1,2,3", band_start="mean")
