"""The packaged recipes: each is built and run, and the page says what it sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vladapt
from vladapt.core.errors import ConfigError
from vladapt.core.recipes.asked_for import adapter_of, encoding_batch_size, fits_towers
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import catalogue
from vladapt.domains.video import Video

PAGE = Path(vladapt.__file__).parent / "docs" / "measurements" / "video.md"
RECIPES = sorted(name for name in catalogue.recipes() if name.startswith("video/") and name != "video/default")
OF_CLASSES = [name for name in RECIPES if resolve(recipe=name).task == "action-recognition"]


def row_of(name: str) -> str:
    """What the page's table says that a recipe sets."""
    recipe, adapter = resolve(recipe=name), adapter_of(resolve(recipe=name))
    reading, options = Video().reading_of(recipe.reading), adapter.options
    changes = "none: stored frames"
    if fits_towers(recipe):
        grey = f", grey {reading.train_grey:g}" if reading.train_grey else ""
        colours = "" if reading.train_colours == "none" else f", {reading.train_colours} colours"
        mirrored = "" if reading.train_flip else ", never mirrored"
        scale = {**(options.get("tower_options") or {}), **options}.get("crop_scale")
        least = f" of {scale[0]:g} or more" if scale else ""
        changes = f"{reading.train_crop} crop{least}{colours}{grey}{mirrored}"
    views = f"{reading.clips} x {reading.crops}"
    views += f", {reading.centre_share:g} of a side" if reading.centre_share < 1 else ""
    training = f"{options['epochs']} of {options['batch_size']}"
    towers = f" (towers {options['lr'] * options['coef_lr']:g})" if options.get("train_towers") else ""
    rates = f"{options['lr']:g}{towers}, {options['weight_decay']:g}"
    return (
        f"| `{name.removeprefix('video/')}` | `{recipe.backbone}` | {reading.frames}, {reading.sampling} | {changes} "
        f"| {views} | {training} | {rates} |"
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_says_what_each_sets(name):
    assert row_of(name) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECIPES)
def test_none_weights_classes_and_each_says_what_it_follows(name):
    recipe = resolve(recipe=name)
    if name in OF_CLASSES:
        assert recipe.adapter["class_weight"] == "none" and adapter_of(recipe).class_weight == "none"
    text = catalogue.recipes()[name].read_text(encoding="utf-8")
    assert re.search(r"arXiv\s+\d{4}\.\d{5}", text) and "released" in text.lower()


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_user_gives_goes_before_it(name):
    flags = {"adapter.lr": 0.5, "adapter.epochs": 3, "data.frames": 5}
    if fits_towers(resolve(recipe=name)):
        flags["batch_size"] = 7
    recipe = resolve(recipe=name, flags=flags)
    given = {key.removeprefix("adapter."): value for key, value in flags.items() if key != "data.frames"}
    assert given.items() <= adapter_of(recipe).options.items() and Video().reading_of(recipe.reading).frames == 5


@pytest.mark.parametrize("name", ["video/clip4clip-meanp", "person/irra", "remote-sensing/remoteclip"])
def test_a_batch_size_goes_before_that_of_the_method(name, tmp_path):
    """From a flag, and from a file that stands on the recipe; what is given for the method itself goes before both."""
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"batch_size": 9}))
    for how, wanted in (
        ({"flags": {"batch_size": 7}}, 7),
        ({"config": own}, 9),
        ({"config": own, "flags": {"batch_size": 7}}, 7),
        ({"config": own, "sets": ["adapter.batch_size=5"]}, 5),
        ({"flags": {"batch_size": 7, "adapter.batch_size": 5}}, 5),
    ):
        recipe = resolve(recipe=name, **how)
        assert adapter_of(recipe).batch_size == wanted and encoding_batch_size(recipe) is None


def test_a_batch_size_that_would_not_reach_a_head_on_stored_features_is_one_line():
    with pytest.raises(ConfigError, match=r"--batch-size 7: .* batches of 64 .* give --set adapter.batch_size=7"):
        resolve(recipe="video/efficient-prompt", flags={"batch_size": 7})
    recipe = resolve(recipe="video/efficient-prompt", flags={"batch_size": 7, "adapter.batch_size": 5})
    assert adapter_of(recipe).batch_size == 5 and encoding_batch_size(recipe) == 7
    assert resolve(flags={"adapter": "efficient-prompt", "batch_size": 7}).batch_size == 7


def test_flags_of_a_training_reach_a_head_with_towers():
    flags = {"adapter": "clip4clip", "batch_size": 7, "amp": "bf16", "workers": 2, "adapter.train_towers": True}
    adapter = adapter_of(resolve(flags=flags))
    assert (adapter.batch_size, adapter.amp) == (7, "bf16")
    assert adapter_of(resolve(flags={**flags, "adapter.train_towers": False})).batch_size == 32


@pytest.mark.thorough(but=("video/efficient-prompt", "video/vifi-clip"))
@pytest.mark.parametrize("name", OF_CLASSES)
def test_those_of_classes_run_on_files(name, clips, small_clip_spec, tmp_path):
    folder = clips(
        *(f"set/{split}/{c}/{n}.mp4" for split in ("train", "test") for c in ("run", "sit") for n in range(2))
    )
    epochs = {"adapter.epochs": 1, "adapter.batch_size": 2}
    small = {"backbone": small_clip_spec, "device": "cpu", "workers": 1, "out": str(tmp_path / "run")}
    if "efficient-prompt" in name:
        small |= {"adapter.prefix": 2, "adapter.postfix": 2, "adapter.heads": 2}
    done = vladapt.fit(resolve(recipe=name, flags={"data.path": str(folder / "set"), **small, **epochs}))
    told = json.loads((done.run / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert told["data"] == {**resolve(recipe=name).data, "path": str(folder / "set")}
    assert done.metrics["test_images"] == 4


@pytest.mark.thorough(but=("video/clip4clip-tight", "video/mug-stan"))
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in OF_CLASSES])
def test_those_of_sentences_run_on_files(name, clips, write, small_clip_spec, tmp_path):
    splits = [split for split in ("train", "test") for _ in range(4)]
    clips(*(f"set/{n}.mp4" for n in range(len(splits))))
    rows = [f"{n}.mp4,number {n},{split}" for n, split in enumerate(splits)]
    table = write("set/captions.csv", "\n".join(["clip,caption,split", *rows]))
    small = {"backbone": small_clip_spec, "device": "cpu", "workers": 1, "out": str(tmp_path / "run")}
    small |= {"adapter.epochs": 1, "adapter.batch_size": 2}
    if name == "video/teach-text":
        small["adapter.teacher"] = [small_clip_spec]
    done = vladapt.fit(resolve(recipe=name, flags={"data.path": str(table), **small}))
    fitted = vladapt.load_adapter(done.run / "adapter.safetensors", vladapt.load_backbone(small_clip_spec, "cpu"))
    learned = {key.split(".")[0] for key in fitted.changed}
    assert done.metrics["test_texts"] == 4 and learned > {"visual", "transformer"}, "both towers are trained"
