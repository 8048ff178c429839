"""A tower of four bands in change detection and pixel regression: what is widened, what trains it, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vladapt.core.backbones import load_backbone
from vladapt.core.contracts import InputChannels
from vladapt.core.contracts.images import Band
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import task_class
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

    def made(folder, task, channels, spec="embedded", **options):
        from vladapt.domains.remote_sensing.changes import training
        from vladapt.domains.remote_sensing.number_maps import make_number_plan
        from vladapt.domains.remote_sensing.pixel_options import PixelSchedule

        data = RemoteSensing().read(folder, task, bands=BANDS)
        data = data.with_items([item.with_(split="train") for item in data.items])
        backbone = load_backbone(spec, device="cpu", channels=None if spec == "embedded" else channels)
        of_fit = {"backbone": spec, "batch_size": 2, "amp": None, "epochs": 1, "lr": None, "seed": 0}
        of_fit |= {"workers": None, "channels": channels}
        if task == "change":
            return training.make_change_plan(training.PixelSchedule(**of_fit), ChangeOptions(**options), data, backbone)
        return make_number_plan(PixelSchedule(**of_fit), PixelOptions(width=8, **options), data, backbone, {})

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


@pytest.mark.parametrize("task", ["change", "pixel-regression"])
def test_maps_are_not_served_and_the_line_says_why(task):
    use = SimpleNamespace(run=SimpleNamespace(shown="runs/one"))
    with pytest.raises(CapabilityError, match=r"^runs/one: .*(dates|not labels).*predict"):
        task_class(task)(RemoteSensing()).served(use, None)


WAVES = (665.0, 560.0, 490.0, 842.0)


def at(*waves):
    """Bands that are known by their wavelengths."""
    return InputChannels(CHANNELS.names[: len(waves)], bands=tuple(Band("", "", "", wave, 30.0) for wave in waves))


@pytest.fixture
def dofa(monkeypatch):
    """The spec of a small DOFA, which takes bands by wavelength."""
    pytest.importorskip("torchgeo", reason="extra torchgeo is not installed")
    from functools import partial

    from torchgeo.models import DOFA

    from vladapt.core.backbones import torchgeo as family

    small = partial(DOFA, embed_dim=24, depth=4, num_heads=2, num_classes=0, img_size=32, patch_size=8)
    like = family.ARCHITECTURES["dofa_small_patch16_224"]()
    made = family.replace(like, build=small, width=24, size=32, patch=8, weights=None)
    monkeypatch.setitem(family.ARCHITECTURES, "small", lambda: made)
    return "torchgeo:small@random:0"


@pytest.mark.parametrize("tuned", ["full", "frozen", "lora"])
@pytest.mark.parametrize(("task", "option", "part", "resnet"), TASKS)
def test_a_tower_of_wavelengths_is_told_of_the_bands(plans, folder_of, dofa, task, option, part, resnet, tuned):
    def scores(channels):
        plan = plans(folder_of(task), task, channels, spec=dofa, **{option: tuned}).to_dict()
        torch.manual_seed(0)
        model = build_model(plan, torch.device("cpu")).eval()
        assert getattr(model, part).backbone.inputs.wavelengths == tuple(b.wavelength for b in channels.bands)
        with torch.no_grad():
            return model(torch.linspace(0, 1, 8192).view((1, 2, 4, 32, 32) if task == "change" else (2, 4, 32, 32)))

    same, moved = at(*WAVES), at(*WAVES[:3], 2190.0)
    one, again, other = (scores(each) for each in (same, same, moved))
    assert all(torch.equal(a, b) for a, b in zip(one, again)) and not all(map(torch.equal, one, other))


def test_bands_of_three_are_told_too_and_the_baseline_of_change_sees_all(dofa):
    from vladapt.domains.remote_sensing.changes.baselines import DateDistances
    from vladapt.domains.remote_sensing.tower_bands import band_options

    three = at(842.0, 665.0, 560.0)
    backbone = load_backbone(dofa, device="cpu", channels=three)
    assert band_options(three, 3, backbone)["channels"] == three.facts and band_options(None, 3, backbone) == {}
    assert InputChannels.of_facts(three.facts) == three
    baselines = DateDistances({"backbone": dofa, "bands": at(*WAVES).facts}, torch.device("cpu"))
    one = torch.rand(1, 2, 4, 32, 32)
    other = one.clone()
    other[:, 0, 3] = 0
    pair = [baselines.distances(each)["feature_difference"][-1] for each in (one, other)]
    assert len(baselines.mean) == 4 and not np.array_equal(*pair)


def test_a_config_of_segmentation_tells_its_tower_of_the_bands(dofa, write_raster):
    from mmengine import Config

    from vladapt.domains.open_vocab.plans.channels import on_bands
    from vladapt.domains.open_vocab.plans.schedule import put_on_backbone
    from vladapt.domains.open_vocab.tasks._by_names import RECIPES

    backbone = load_backbone(dofa, device="cpu", channels=at(*WAVES))
    plan = Config.fromfile(str(RECIPES / "upernet.py")).to_dict()
    put_on_backbone(plan, dofa, backbone.channels)
    notes = on_bands(plan, backbone)
    tower, given = plan["model"]["backbone"], plan["model"]["data_preprocessor"]
    assert tower["channels"] == backbone.channels.facts and "by wavelength: red at 665" in notes[0]
    assert given["mean"] == [255 * each for each in backbone.image_mean] and given["bgr_to_rgb"] is False
    with pytest.raises(CapabilityError, match="the model learned red,green,blue,nir; give these"):
        on_bands(plan, load_backbone(dofa, device="cpu", channels=at(*WAVES[:3])))
    plan["model"]["backbone"] = {"type": "mmseg.ResNet", "depth": 18}
    with pytest.raises(CapabilityError, match="ResNet cannot be told of its bands"):
        on_bands(plan, backbone)
