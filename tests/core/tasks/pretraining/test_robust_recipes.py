"""`pretrain --recipe tecoa|fare`: labelled images, or images alone, and a model that serves as a backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt import ConfigError, DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.tasks.pretraining.options import plan_of_recipe
from vladapt.core.tasks.pretraining.pretrain import pretrain


@pytest.fixture(scope="module")
def areas(tmp_path_factory):
    """Eight images of two colours, in class folders."""
    folder = tmp_path_factory.mktemp("areas")
    for number, (name, channel) in enumerate([("red", 0), ("blue", 2)] * 4):
        pixels = np.random.default_rng(number).integers(0, 90, (40, 48, 3), dtype=np.uint8)
        pixels[..., channel] += 120
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def plan(recipe, data, spec, out, **flags):
    how = {"data.path": str(data), "out": str(out), "backbone": spec, "device": "cpu", **flags}
    sets = [f"loss.{recipe}.steps=2"]
    return plan_of_recipe(recipe, losses=None, settings={"epochs": 1, "batch_size": 4}, sets=sets, **how)


@pytest.mark.parametrize(
    ("recipe", "told"), [("tecoa", "All 8 labelled images"), ("fare", "All images are trained on")]
)
def test_the_recipe_changes_the_image_tower_alone(recipe, told, areas, small_clip_spec, tmp_path):
    made = plan(recipe, areas, small_clip_spec, tmp_path / "model")
    assert made.losses == {recipe: 1.0} and made.loss_options[recipe]["steps"] == 2
    assert (made.settings.lr, made.settings.weight_decay, made.settings.warmup) == (1e-5, 1e-4, 0.07)
    done = pretrain(made)
    assert done.summary["steps"] == 2 and any(told in note for note in done.notes)
    before, after = (load_backbone(spec, device="cpu") for spec in (small_clip_spec, str(done.model)))
    assert torch.equal(before.encode_text(["a word"]), after.encode_text(["a word"]))
    pixels = torch.rand(2, 3, before.image_size, before.image_size, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before.encode_image(pixels), after.encode_image(pixels))


def test_tecoa_asks_for_one_set_of_labelled_images(areas, small_clip_spec, tmp_path):
    with pytest.raises(DataError, match="red"):
        pretrain(plan("tecoa", areas / "red", small_clip_spec, tmp_path / "a"))
    several = plan(
        "tecoa", areas, small_clip_spec, tmp_path / "b", **{"sources.data": [str(areas), str(areas / "red")]}
    )
    with pytest.raises(ConfigError, match="loss tecoa: learns from one set of labelled images"):
        pretrain(several)


def test_val_and_test_are_left_out_and_a_domain_names_the_classes(areas, small_clip_spec, tmp_path):
    lines = ["path,label,split"] + [
        f"{name}/{n}.png,{name},{'test' if n > 5 else 'train'}" for n, name in enumerate(["red", "blue"] * 4)
    ]
    table = tmp_path / "areas.csv"
    table.write_text("\n".join(lines))
    for file in areas.glob("*/*.png"):
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        (tmp_path / file.parent.name / file.name).write_bytes(file.read_bytes())
    done = pretrain(plan("tecoa", table, small_clip_spec, tmp_path / "model", domain="natural"))
    assert any(
        "All 6 labelled images are trained on, and nothing is measured on them; 2 marked" in n for n in done.notes
    )
