"""Change detection as a task: what a fit says beside thresholds, its run used again, and options that change it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import load_domain
from vladapt.core.tasks import build_model
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.changes.drawn import drawn_pair
from vladapt.domains.remote_sensing.changes.options import ChangeOptions
from vladapt.domains.remote_sensing.pixel_options import PixelSchedule
from vladapt.domains.remote_sensing.tasks.change import Change

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

COUNTS = {"train": 6, "val": 2, "test": 3}
GIVEN = {"domain": "remote-sensing", "task": "change", "device": "cpu", "epochs": 1, "batch_size": 3, "workers": 0}


@pytest.fixture(scope="module")
def drawn_folder(tmp_path_factory):
    """Eleven drawn pairs of 48 x 48 pixels."""
    folder, number = tmp_path_factory.mktemp("pairs"), 0
    for split, count in COUNTS.items():
        for _ in range(count):
            for name, pixels in zip(("A", "B", "label"), drawn_pair(number, 1.0)):
                file = folder / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[20:68, 20:68]).save(file)
            number += 1
    return folder


@pytest.fixture(scope="module")
def fitted(drawn_folder, tmp_path_factory):
    return vladapt.fit(data=str(drawn_folder), out=str(tmp_path_factory.mktemp("runs")), **GIVEN)


@pytest.fixture(scope="module")
def plans(drawn_folder):
    """plans(**options): the plan of a fit with these options."""
    from vladapt.core.backbones import load_backbone
    from vladapt.domains.remote_sensing.changes.training import make_change_plan

    data = RemoteSensing().read(drawn_folder, "change")
    backbone = load_backbone("embedded", device="cpu")

    def made(**options):
        return make_change_plan(
            PixelSchedule("embedded", 2, None, 1, None, 0, None), ChangeOptions(**options), data, backbone
        )

    return made


def test_a_fit_stands_beside_thresholds_that_were_chosen_on_val(fitted):
    adapted = fitted.metrics["adapted"]
    assert set(adapted) == {"f1", "IoU", "precision", "recall", "f1_feature_difference", "f1_image_difference"}
    assert adapted["IoU"] == pytest.approx(adapted["f1"] / (2 - adapted["f1"]))
    low, high = fitted.metrics["metric_intervals"]["adapted"]["f1"]
    assert low <= adapted["f1"] <= high and any("a threshold on the" in note for note in fitted.notes)
    kept = json.loads((fitted.run / "run.json").read_text())["plan"]["vladapt"]["thresholds"]
    assert set(kept) == {"model", "feature_difference", "image_difference"}
    page = (fitted.run / "report.html").read_text()
    assert "Beside what needs no training" in page and "hits green" in page


def test_a_run_scores_the_same_again_and_maps_new_pairs(fitted, drawn_folder, tmp_path):
    again = vladapt.evaluate(fitted.run, device="cpu")["adapted"]
    assert again == pytest.approx(fitted.metrics["adapted"], abs=1e-6)
    dates = sorted((drawn_folder / "test").glob("[AB]/8.png"))
    found = vladapt.predict(fitted.run, dates, out=str(tmp_path / "out"), device="cpu")
    assert len(found.rows()) == 1 and {file.name for file in found.files} == {
        "8.png",
        "8_change.tif",
        "8_probability.tif",
    }
    with pytest.raises(ConfigError, match=r"8_change.tif: already exists, and maps do not replace files"):
        vladapt.predict(fitted.run, dates, out=str(tmp_path / "out"), device="cpu")


def test_an_exported_graph_maps_both_dates_as_the_run_does(fitted, drawn_folder, write_raster, tmp_path):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
    exported = vladapt.export(fitted.run, out=str(tmp_path / "graph"))
    checks = exported.facts["checks"]
    assert {name: check["same_pixels"] for name, check in checks.items()} == {"pixels": 1.0, "files": 1.0}
    pixels = [np.array(Image.open(drawn_folder / "test" / name / "8.png")).transpose(2, 0, 1) for name in "AB"]
    pixels[1][:, :, :5] = 0
    dates = [
        write_raster(f"{name}.tif", np.tile(each, (1, 2, 2))[:, :70, :], nodata=0)
        for name, each in zip(("one", "two"), pixels)
    ]
    vladapt.predict(fitted.run, dates, out=str(tmp_path / "maps"), device="cpu")
    command = [sys.executable, "-I", tmp_path / "graph" / "predict.py", *dates, "--out", tmp_path / "script"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    with (
        rasterio.open(next((tmp_path / "maps").glob("*_change.tif"))) as change,
        rasterio.open(next((tmp_path / "maps").glob("*_probability.tif"))) as probability,
        rasterio.open(row["map"]) as made,
    ):
        called, percent = made.read()
        assert (called == 255).sum() == (change.read(1) == 255).sum() > 0
        assert (called == change.read(1)).mean() > 0.999
        assert np.abs(percent.astype(int) - probability.read(1)).max() <= 1


def test_shots_are_tiles_with_and_without_change(drawn_folder):
    from vladapt.core.recipes.resolve import resolve

    data = RemoteSensing().read(drawn_folder, "change", window_size=16)
    chosen = Change(load_domain("remote-sensing")).choose(resolve(flags={"shots": 2, "seed": 1}), data)
    shows = [1 in item.classes() for item in chosen.split("train")]
    assert sorted(shows) == [False, False, True, True] and len(chosen.split("test")) == len(data.split("test"))


def test_both_dates_of_more_than_8_bits_are_stretched_from_the_same_ranges(write_raster, tmp_path):
    from vladapt.core.recipes.resolve import resolve
    from vladapt.core.runtime import Reporter

    for number in range(6):
        random = np.random.default_rng(number)
        for name, high in (("A", 900), ("B", 3000)):
            write_raster(f"deep/{name}/{number}.tif", random.integers(1, high, (3, 12, 12)).astype(np.uint16), crs=None)
        write_raster(f"deep/label/{number}.tif", np.eye(12, dtype=np.uint8)[None], crs=None)
    task = Change(load_domain("remote-sensing"))
    recipe = task.settled(resolve(flags={"domain": "remote-sensing", "task": "change", "data.path": tmp_path / "deep"}))
    data = task._data(recipe, Reporter(quiet=True))
    for item in data.items:
        assert item.decode["stretch"] == item.decode["after_decode"]["stretch"] == list(data.reading["stretch"])
        before, after = data.load(item)
        assert before.max() < 0.4 and after.max() > 0.9


def test_every_option_changes_the_plan(plans):
    usual = plans()
    assert usual.model.encoder.frozen and usual.model.dice == 1.0 and usual.train_cfg.max_iters == 3
    others = {
        "tower": plans(tower="full"),
        "head": plans(head="fpn"),
        "head_channels": plans(head_channels=16),
        "change_weight": plans(change_weight=2.0),
        "dice_weight": plans(dice_weight=0.0),
        "augmented": plans(augmented=False),
        "encoder": plans(encoder="resnet-18"),
    }
    assert len({json.dumps(plan.to_dict(), sort_keys=True) for plan in (usual, *others.values())}) == 8
    assert "frozen" not in others["tower"].model.encoder and "lr_mult" in str(others["tower"].optim_wrapper)
    resnet = build_model(others["encoder"].to_dict(), torch.device("cpu"))
    assert resnet(torch.rand(1, 2, 3, 48, 48)).shape == (1, 2, 48, 48)
    with pytest.raises(ConfigError, match="resnet-18 trains whole"):
        ChangeOptions(encoder="resnet-18", tower="lora")
    with pytest.raises(ConfigError, match="--rank 8: is for --tower lora"):
        ChangeOptions(rank=8)


def test_a_frozen_tower_keeps_its_weights_and_one_that_trains_does_not(plans):
    for how, trains in (("frozen", False), ("full", True)):
        model = build_model(plans(tower=how).to_dict(), torch.device("cpu"))
        model(torch.rand(1, 2, 3, 48, 48), torch.ones(1, 48, 48), mode="loss")["loss_ce"].backward()
        assert any(p.grad is not None for p in model.encoder.parameters()) is trains
        assert all(p.grad is not None for p in model.compared.parameters())


def test_lora_trains_matrices_in_the_attention_of_a_transformer_alone(drawn_folder, tmp_path, plans):
    from vladapt.core.backbones import load_backbone
    from vladapt.domains.remote_sensing.changes.training import make_change_plan

    vision = {"layers": 4, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 48}
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    (tmp_path / "tiny.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    spec = f"open_clip:{tmp_path / 'tiny.json'}@random"
    data, backbone = RemoteSensing().read(drawn_folder, "change"), load_backbone(spec, device="cpu")
    counts = []
    for rank in (2, 4):
        schedule, how = PixelSchedule(spec, 2, None, 1, None, 0, None), ChangeOptions(tower="lora", rank=rank)
        model = build_model(make_change_plan(schedule, how, data, backbone).to_dict(), torch.device("cpu"))
        assert model(torch.rand(1, 2, 3, 48, 48)).shape == (1, 2, 48, 48)
        names = [name for name, weight in model.encoder.named_parameters() if weight.requires_grad]
        assert names and all("lora" in name for name in names)
        counts.append(sum(weight.numel() for weight in model.encoder.parameters() if weight.requires_grad))
    assert counts[1] == 2 * counts[0]
    with pytest.raises(CapabilityError, match=r"image_blocks|transformer blocks"):
        plans(tower="lora")


def test_training_without_change_and_bands_that_are_not_there_are_refused(drawn_folder, tmp_path, write_raster):
    from vladapt.domains.remote_sensing.changes.training import check_training

    data = RemoteSensing().read(drawn_folder, "change", window_size=16)
    with pytest.raises(DataError, match="no tile of the training shows a change"):
        check_training([item for item in data.items if item.classes() == (0,)])
    for name, bands in (("A", 4), ("B", 4), ("label", 1)):
        array = np.random.default_rng(bands).integers(1, 200, (bands, 16, 16)).astype(np.uint8)
        write_raster(f"four/{name}/one.tif", array if bands > 1 else np.eye(16, dtype=np.uint8)[None])
    given = {**GIVEN, "data": str(tmp_path / "four"), "bands": "1,2,3,4", "block_size": 0}
    with pytest.raises(DataError, match="has no band 4, only 3 and one marked as transparency"):
        vladapt.fit(out=str(tmp_path / "runs"), **given)


def test_dates_of_other_channels_than_the_training_are_not_scored(drawn_folder):
    from mmengine import Config

    from vladapt.domains.remote_sensing.changes.scoring import evaluate_changes

    model = torch.nn.Linear(1, 1)
    model.cfg = Config({"vladapt": {"backbone": "embedded", "channels": 4}})
    with pytest.raises(
        DataError, match=r"\.png: has 3 channels, and the model was trained on 4; choose them by --bands"
    ):
        evaluate_changes(model, RemoteSensing().read(drawn_folder, "change"), lambda done, total: None)
