"""Four or more bands in one picture: their order, towers widened for them, methods that train them and that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vladapt
from vladapt import CapabilityError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.engine.embed import embed
from vladapt.core.recipes.resolve import resolve
from vladapt.core.testing.domain_trial import DomainTrial, ReadSet
from vladapt.core.testing.samples import images_decode, pixels_are_inputs
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.bands import further_channels
from vladapt.domains.remote_sensing.reading import CORPORA

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
NAMES = ("blue", "green", "red", "nir")


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Two classes of rasters of 8 bits that differ in their infrared alone."""
    folder, draw = tmp_path_factory.mktemp("fields"), np.random.default_rng(0)
    for label, name in enumerate(("bare soil", "crop")):
        for split, count in (("train", 8), ("test", 4)):
            for i in range(count):
                bands = draw.integers(90, 110, (4, 16, 16), dtype=np.uint8)
                bands[3] = draw.integers(20, 60, (16, 16)) + 150 * label
                file = folder / split / name / f"{split}_{label}_{i}.tif"
                file.parent.mkdir(parents=True, exist_ok=True)
                profile = {"driver": "GTiff", "count": 4, "height": 16, "width": 16, "dtype": "uint8"}
                with rasterio.open(file, "w", photometric="minisblack", **profile) as raster:
                    raster.write(bands)
                    for place, called in enumerate(NAMES, start=1):
                        raster.set_band_description(place, called)
    return folder


@pytest.mark.parametrize(
    ("bands", "sensor", "wanted"),
    [
        ("nir,blue,green,red", None, ("red", "green", "blue", "nir")),
        ("true-color,nir,swir16", None, ("red", "green", "blue", "nir", "swir16")),
        ("B02,B03,B04,B08", None, ("b04", "b03", "b02", "b08")),
        ("b2,b3,b4,b5,b6", "landsat-8", ("b4", "b3", "b2", "b5", "b6")),
        ("4,3,2,8", None, ("4", "3", "2", "8")),
        ("1,2,3,4,8", "eurosat", ("4", "3", "2", "1", "8")),
        ("1,2,3,4", "sentinel-2", ("1", "2", "3", "4")),
        ("vv,vh,vv-vh,nir", None, ("vv", "vh", "vv-vh", "nir")),
        ("nir,red,green", None, None),
        ("true-color+false-color", None, None),
        (None, "naip", None),
    ],
)
def test_red_green_and_blue_come_first_where_all_are_named(bands, sensor, wanted):
    assert further_channels(bands, sensor) == wanted
    channels = RemoteSensing().channels({"bands": bands, "sensor": sensor})
    if wanted is None:  # three that were chosen keep their order
        assert (None if channels is None else ",".join(channels.names)) in (None, bands)
    else:
        assert channels.names == wanted


def test_a_picture_of_four_bands_holds_what_the_file_does(fields):
    data = RemoteSensing().read(fields, "classification", bands="nir,blue,green,red")
    item = data.items[0]
    with rasterio.open(item.source) as raster:
        stored = raster.read()
    assert np.array_equal(data.load(item), stored[[2, 1, 0, 3]].transpose(1, 2, 0))


def test_images_and_pixels_of_four_bands_keep_the_contract(fields):
    of_four = DomainTrial(RemoteSensing(), fields, {"bands": "red,green,blue,nir"}, "classification")
    data = of_four.read(fields, "classification")
    vars(of_four)["_sets"] = [ReadSet("the set", "classification", data, lambda: data)]  # its sample has no bands
    assert not [*images_decode(of_four), *pixels_are_inputs(of_four)]
    of_four.reading = {}  # what is read stays, and is no longer what the domain says
    assert any("give (H, W, 3), or (T, H, W, 3) of a clip" in line for line in images_decode(of_four))


@pytest.mark.parametrize("corpus", [None, "rs5m"])
@pytest.mark.parametrize("train", [False, True])
def test_further_bands_are_normalised_by_the_mean_of_the_three(small_clip_spec, corpus, train):
    domain = RemoteSensing(corpus=corpus)
    backbone = load_backbone(small_clip_spec, "cpu", channels=domain.channels({"bands": "1,2,3,4,5,6"}))
    mean, std = CORPORA[corpus] if corpus else (backbone.transform.mean, backbone.transform.std)
    grey = np.full((20, 20, 6), 0.5, np.float32)
    pixels = domain.transforms(backbone, train, "classification")(grey, seed=1)
    assert pixels.shape == (6, backbone.image_size, backbone.image_size)
    if not train:
        colours = [(0.5 - m) / s for m, s in zip(mean, std)]
        wanted = torch.tensor([*colours, *[(0.5 - sum(mean) / 3) / (sum(std) / 3)] * 3])
        torch.testing.assert_close(pixels.mean(dim=(1, 2)), wanted, atol=1e-5, rtol=1e-4)


def test_augmentation_of_a_picture_without_the_further_bands_leaves_them_at_their_mean(small_clip_spec):
    domain = RemoteSensing()
    backbone = load_backbone(small_clip_spec, "cpu", channels=domain.channels({"bands": "1,2,3,4,5"}))
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    transform = domain.transforms(backbone, False, "classification")
    assert (transform(picture)[3:] == 0).all()
    assert domain.transforms(backbone, True, "classification")(picture, seed=2).shape[0] == 5


@pytest.fixture
def fit(fields, small_clip_spec, tmp_path):
    def run(adapter, bands="red,green,blue,nir", **reading):
        data = {"path": str(fields), "bands": bands, **reading}
        how = {"shots": 8, "seed": 1, "backbone": small_clip_spec, "device": "cpu", "workers": 1}
        return vladapt.fit(domain="remote-sensing", data=data, adapter=adapter, out=str(tmp_path / "run"), **how)

    return run


@pytest.mark.thorough(but=("lora",))
@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_band_that_tells_the_classes_apart_is_learned_and_known_at_prediction(fit, fields, name):
    result = fit({"name": name, "lr": 3e-3, "epochs": 12, "batch_size": 8, "warmup": 0.0})
    assert result.metrics["adapted"]["accuracy"] == 1.0
    assert any("sees red, green, blue as red, green and blue; nir started at zero" in note for note in result.notes)
    assert name == "full" or any("takes the 4 channels of an image was trained too" in n for n in result.notes)
    rows = vladapt.predict(result.run, [fields / "test"]).rows()
    assert [row["label"] for row in rows] == [row["id"].split("/")[-2] for row in rows]


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({"name": "tip-adapter"}, "'tip-adapter' cannot use nir: .* fit lora or full, or give --bands of three"),
        ({"name": "full", "last": 1, "epochs": 1, "batch_size": 4}, "'full' cannot use nir"),
        ({"name": "lit", "epochs": 1, "batch_size": 4}, "'lit' cannot use nir"),
    ],
)
def test_a_method_that_does_not_train_the_first_layer_is_refused(fit, adapter, words):
    with pytest.raises(CapabilityError, match=words):
        fit(adapter)


def test_features_alone_are_refused_where_they_would_lack_the_bands(fields, small_clip_spec, tmp_path):
    flags = {"domain": "remote-sensing", "backbone": small_clip_spec, "data.path": str(fields)}
    recipe = resolve(flags=flags, sets=["data.bands=1,2,3,4"])
    with pytest.raises(CapabilityError, match="`vladapt embed` cannot use 4"):
        embed(recipe, tmp_path / "features.safetensors")


def test_a_start_of_bands_that_are_not_there_is_said_to_do_nothing(fields):
    data = RemoteSensing().read(fields, "classification", bands="1,2,3", band_start="mean", language="en")
    assert "Option band_start has no effect here: it is for four or more bands." in data.notes
    assert "Option language has no effect here: it is for tables of captions." in data.notes


def test_from_the_mean_of_the_weights_frozen_towers_see_all_bands(fit):
    """The colours are noise; by the infrared alone the classes are far apart."""
    seen = fit({"name": "linear-probe"}, band_start="mean").metrics["adapted"]["accuracy"]
    colours = fit({"name": "linear-probe"}, bands="red,green,blue").metrics["adapted"]["accuracy"]
    assert seen == 1.0 > colours
