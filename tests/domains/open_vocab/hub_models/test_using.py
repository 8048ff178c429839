"""A closed detector of transformers by its place: started from, used as it is, remembered, refused in one line."""

import json

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file
from torch import nn

import vladapt
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.inference.running import choose_names
from vladapt.domains.open_vocab.remembering.weights import put_between, state_of

from . import tiny

NAMES = ("red circle", "N/A", "blue square", "green star", "N/A")
"""As COCO's 91 with gaps."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    model, processor = tiny.yolos(NAMES)
    return tiny.saved(tmp_path_factory.mktemp("hub") / "yolos", model, processor, "cc-by-nc-4.0")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four images for training, two for test, of two names, one of which the model knows."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    categories = [{"id": 7, "name": "blue square"}, {"id": 90, "name": "pink ring"}]
    for split, count, seed in (("train", 4, 0), ("test", 2, 9)):
        random, listed, annotations = np.random.default_rng(seed), [], []
        for number in range(count):
            name = f"{split}{number}.png"
            Image.fromarray(random.integers(0, 255, (48, 80, 3), dtype=np.uint8)).save(folder / name)
            listed.append({"id": number, "file_name": name, "width": 80, "height": 48})
            box = {"bbox": [8, 8, 24, 24], "area": 576, "iscrowd": 0, "category_id": 7 if number % 2 else 90}
            annotations.append({"id": number + 1, "image_id": number, **box})
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def fitted(source, data, tmp_path_factory):
    """A fit of one epoch that is to remember a name."""
    how = {"epochs": 1, "batch_size": 2, "workers": 0, "device": "cpu", "remember": "green star", "wise_alpha": 0.5}
    out = str(tmp_path_factory.mktemp("runs"))
    return vladapt.fit(domain="open-vocab", data=str(data), start=f"hf:{source}", out=out, **how).run


def run_json(run) -> dict:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def test_a_run_holds_the_configuration_the_weights_and_where_it_began(fitted, source):
    plan = run_json(fitted)["plan"]
    assert plan["model"]["type"] == "vladapt.HFDetector" and plan["model"]["config"]["model_type"] == "yolos"
    assert "pretrained" not in plan["model"] and str(source) not in json.dumps(plan["model"])
    assert plan["vladapt"]["source"] == {"id": str(source), "revision": "", "licence": "cc-by-nc-4.0"}
    assert plan["model"]["classes"] == ["blue square", "pink ring", "green star"]


def test_a_fit_says_where_it_began_and_which_names_are_new(fitted):
    wanted = "Started from yolos (yolos, licence cc-by-nc-4.0): of 3 names its head knew 2; rows of 1 are new, among "
    assert f"{wanted}them pink ring." in run_json(fitted)["plan"]["vladapt"]["notes"]


def test_what_is_to_be_remembered_is_half_of_what_it_was(fitted, source):
    name = "class_labels_classifier.layers.2.weight"
    before, after = load_file(source / "model.safetensors")[name], load_file(fitted / "adapter.safetensors")
    after = after[f"model.{name}"]
    assert after.shape[0] == 4  # three names and no object
    moved = (after[[0, 2, 3]] - before[[2, 3, 5]]).abs()
    assert 0 < moved.max() < 1e-3  # an epoch moves them by little, as half of it is taken back


def test_a_run_predicts_without_its_source(fitted, data, source):
    hidden = source.rename(source.with_name("hidden"))
    try:
        found = vladapt.predict(fitted, [str(data / "test0.png")], device="cpu").rows()[0]
    finally:
        hidden.rename(source)
    assert len(found["boxes"]) == 12 and set(found["labels"]) <= {"blue square", "pink ring", "green star"}


def test_a_run_is_started_from_again_and_its_head_is_found_by_name(fitted):
    again = hub_model(str(fitted))
    assert again.names == ("blue square", "pink ring", "green star") and again.licence == "cc-by-nc-4.0"
    assert again.model_type == "yolos" and again.is_run


def test_a_model_is_used_as_it_is_and_asked_for_some_of_its_names(source, data, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    place, picture = f"hf:{source}", [str(data / "test0.png")]
    found = vladapt.predict(place, picture, device="cpu").rows()[0]
    assert set(found["labels"]) <= set(NAMES) - {"N/A"}
    chosen = vladapt.predict(place, picture, device="cpu", classes="Green Star, red circle").rows()[0]
    assert set(chosen["labels"]) <= {"green star", "red circle"} and len(chosen["boxes"]) == 12
    with pytest.raises(ConfigError, match=r"does not know 'gren star'; .*green star"):
        vladapt.predict(place, picture, device="cpu", classes="gren star")


def test_names_that_an_untrained_head_lacks_are_refused(source, data, tmp_path):
    how = {"epochs": 0, "workers": 0, "device": "cpu", "out": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"--epochs 0: .* does not know 'pink ring', and nothing is trained"):
        vladapt.fit(domain="open-vocab", data=str(data), start=f"hf:{source}", **how)
    run = vladapt.fit(domain="open-vocab", data=str(data), start=f"hf:{source}", classes="blue square", **how).run
    weights, before = load_file(run / "adapter.safetensors"), load_file(source / "model.safetensors")
    name = "class_labels_classifier.layers.2.bias"
    assert torch.equal(weights[f"model.{name}"], before[name][[2, 5]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "config.json names a model of type 'llama', which is not supported"),
        ({"auto_map": {"AutoModel": "a.py--B"}}, None),
        ({"backbone": "hf-hub:timm/x", "use_timm_backbone": True}, "its backbone would be downloaded"),
    ],
)
def test_what_is_no_listed_detector_is_refused_in_one_line(source, data, tmp_path, change, words):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    stated = json.loads((source / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**stated, **change}))
    how = {"epochs": 0, "classes": "blue square", "out": str(tmp_path), "workers": 0, "device": "cpu"}
    if words is None:  # what names code is left out
        assert "auto_map" not in hub_model(f"hf:{folder}").config
        return
    with pytest.raises(DataError, match=words):
        vladapt.fit(domain="open-vocab", data=str(data), start=f"hf:{folder}", **how)


def test_a_missing_processor_and_a_place_of_nothing_are_said(source, tmp_path):
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(DataError, match=r"has no preprocessor_config.json"):
        hub_model(f"hf:{tmp_path}")
    with pytest.raises(DataError, match="no such folder, and no repository of the hub"):
        hub_model(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(ConfigError, match="names no model"):
        hub_model("hf:")


def test_another_recipe_does_not_go_with_a_model_of_the_hub(source, data, tmp_path):
    with pytest.raises(ConfigError, match="omit --recipe and --config"):
        vladapt.fit(recipe=resolve(recipe="open-vocab/retinanet", flags={"start": f"hf:{source}"}))


def test_a_choice_of_names_is_a_choice_of_rows():
    class Head(nn.Module):
        def choose_names(self, rows):
            self.rows = rows

    head = Head()
    head.cfg = type("Cfg", (), {"vladapt": type("Group", (), {"classes": ["a", "b", "c"]})})
    assert choose_names(head, ["C", "a"]) == ("c", "a") and head.rows == [2, 0]


def test_weights_of_one_shape_are_mixed_and_others_are_those_after():
    model = nn.Linear(2, 3)
    after = state_of(model)
    put_between(model, {"weight": torch.zeros(3, 2), "bias": torch.zeros(5)}, after, 0.5)
    torch.testing.assert_close(model.weight.detach(), after["weight"] / 2)
    torch.testing.assert_close(model.bias.detach(), after["bias"])
