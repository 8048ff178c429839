"""A closed detector of transformers by its place: started from, used as it is, remembered, refused in one line."""

import json
import re
import shutil
import threading

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file
from torch import nn

import vladapt
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runs.folder import Run
from vladapt.domains.open_vocab.hub_models import source as sources
from vladapt.domains.open_vocab.hub_models.family import family_of
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.hub_models.used_as_is import run_of_source
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


def test_weights_have_the_licence_of_where_they_began_and_are_pushed_under_none_that_forbids_it(fitted, tmp_path):
    """Not that of the package's own towers, which such a run does not use."""
    info = Run.open(fitted).info
    assert info.weights == ("yolos", "cc-by-nc-4.0") and info.licences["weights"] == "cc-by-nc-4.0"
    licences = (fitted / "report.html").read_text(encoding="utf-8").partition(">Licences<")[2]
    assert "cc-by-nc-4.0" in licences and "Apache-2.0 (" not in licences
    pytest.importorskip("huggingface_hub")
    with pytest.raises(CapabilityError, match=r"keeps weights of yolos, which are under cc-by-nc-4\.0"):
        vladapt.push(fitted, "me/yolos", out=str(tmp_path / "pushed"))


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
        (
            {"model_type": "llama"},
            "names a model of type 'llama', which is not supported; there are: clipseg",
        ),
        ({"model_type": None}, "config.json names no model_type; there are: clipseg"),
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


def changed(source, folder, file="config.json", **change):
    """A copy of a model's folder with other values in a file; a value of None takes the key away."""
    shutil.copytree(source, folder)
    stated = {**json.loads((folder / file).read_text(encoding="utf-8")), **change}
    stated = {key: value for key, value in stated.items() if value is not None}
    (folder / file).write_text(json.dumps(stated), encoding="utf-8")
    return f"hf:{folder}"


class Writes:
    """A task that writes the run of a model, at the same time as another where `together` says so."""

    def __init__(self, together=None, fails=False):
        self.domain, self.name, self.together, self.fails = self, "detection", together, fails
        self.names = 0

    def settled(self, recipe):
        return recipe

    def used_as_it_is(self, recipe, data, reporter):
        from pathlib import Path

        run = Path(recipe.out) / "run"
        run.mkdir()
        self.names += 1
        if self.together is not None:
            self.together.wait(timeout=20)
        if self.fails:
            raise DataError("no room")
        (run / "run.json").write_text(json.dumps(list(data.class_names)), encoding="utf-8")
        return run


def test_a_model_that_two_use_first_at_once_has_one_run(source, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    model, task, runs = hub_model(f"hf:{source}"), Writes(threading.Barrier(2)), []
    threads = [threading.Thread(target=lambda: runs.append(run_of_source(model, task))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert task.names == 2 and runs[0] == runs[1] and (runs[0] / "run.json").is_file()
    assert [path.name for path in runs[0].parent.iterdir()] == [runs[0].name]  # nothing else is left
    assert run_of_source(model, task) == runs[0] and task.names == 2


def test_a_run_of_a_model_that_was_not_written_whole_is_written_again(source, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    model = hub_model(f"hf:{source}")
    with pytest.raises(DataError, match="no room"):
        run_of_source(model, Writes(fails=True))
    assert (run_of_source(model, Writes()) / "run.json").is_file()


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "tokenizer_config.json"])
def test_another_tokenizer_is_another_run(source, tmp_path, monkeypatch, name):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    place = changed(source, tmp_path / "model")
    runs = [run_of_source(hub_model(place), Writes())]
    for content in ("{}", "{ }"):
        (tmp_path / "model" / name).write_text(content, encoding="utf-8")
        runs.append(run_of_source(hub_model(place), Writes()))
    assert len(set(runs)) == 3


def test_a_run_is_made_again_by_another_transformers(source, tmp_path, monkeypatch):
    from vladapt.domains.open_vocab.hub_models import used_as_is

    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    before = run_of_source(hub_model(f"hf:{source}"), Writes())
    monkeypatch.setattr(used_as_is, "version", lambda name: f"{name} 0")
    assert run_of_source(hub_model(f"hf:{source}"), Writes()) != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id2label": {"a": "b"}}, r"config\.json: id2label has the key 'a'; .* from 0 to 100000"),
        ({"id2label": {"99999999": "b"}}, "id2label has the key '99999999'"),
        ({"id2label": {"-1": "b"}}, "id2label has the key '-1'"),
        ({"id2label": {"1": "a", "3": "b"}}, "id2label names 2 rows but not row 0; number them from 0 without gaps"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label names 2 rows but not row 1"),
        ({"id2label": None, "num_labels": "many"}, "num_labels is 'many'; give a whole number from 1 to 100000"),
        ({"id2label": None, "num_labels": 10**9}, "num_labels is '1000000000'"),
    ],
)
def test_rows_that_are_not_numbered_are_refused_in_one_line(source, tmp_path, change, words):
    with pytest.raises(DataError, match=words):
        hub_model(changed(source, tmp_path / "model", **change))


def test_rows_that_are_numbered_in_any_order_are_those_of_the_head(source, tmp_path):
    place = changed(source, tmp_path / "model", id2label={"1": "b", "0": "a"})
    assert hub_model(place).names == ("a", "b")


@pytest.mark.parametrize("change", [{"hidden_size": "x"}, {"hidden_size": -4}, {"image_size": None, "patch_size": 0}])
def test_values_that_make_no_model_are_refused_in_one_line(source, change):
    config = {**hub_model(f"hf:{source}").config, **change}
    with pytest.raises(DataError, match=r"config\.json of the model \(yolos\): its values are not usable"):
        family_of(config, 3).build()


def test_a_model_that_is_used_as_it_is_is_named_as_it_was_given(source, data, tmp_path, monkeypatch):
    """Not by the folder in the cache where its run lies."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    place, how = f"hf:{source}", {"device": "cpu", "outputs": "coco", "masks": True, "out": str(tmp_path / "out")}
    with pytest.raises(CapabilityError, match=re.escape(f"--masks: {place} finds boxes alone")):
        vladapt.predict(place, [str(data / "test0.png")], **how)
    with pytest.raises(DataError, match=re.escape(f"no run.json there; a model of transformers is named {place}")):
        vladapt.predict(str(source), [str(data / "test0.png")], device="cpu")
    with pytest.raises(CapabilityError, match=re.escape(f"{place}: yolos: its processor keeps the proportions")):
        vladapt.export(place, str(tmp_path / "graph"))


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        ("YolosFeatureExtractor", "YolosImageProcessor"),
        ("YolosImageProcessorFast", "YolosImageProcessor"),
        ("DetrImageProcessor", "YolosImageProcessor"),
        (None, "YolosImageProcessor"),
        ("CLIPImageProcessor", None),
        ("RTDetrImageProcessor", None),
    ],
)
def test_a_processor_is_that_of_the_type_or_refused(source, tmp_path, stated, kind):
    place = changed(source, tmp_path / "model", "preprocessor_config.json", image_processor_type=stated)
    if kind is not None:
        assert hub_model(place).processor["kind"] == kind
        return
    with pytest.raises(DataError, match=f"prepared by {stated}, but a model of this type by YolosImageProcessor"):
        hub_model(place)


def test_a_licence_that_forbids_commercial_use_is_told_once_though_nothing_is_downloaded(source, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    lines = []
    monkeypatch.setattr(sources.Reporter, "info", lambda _, line: lines.append(line))
    sources._tell_once.cache_clear()
    repository = tmp_path / "models--someone--yolos"
    shutil.copytree(source, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for _ in range(2):
        hub_model("hf:someone/yolos")
    assert lines == ["The licence of someone/yolos is cc-by-nc-4.0, which forbids commercial use."]


def test_a_model_of_another_type_is_refused_by_its_configuration_and_texts_need_a_tokenizer(source, tmp_path):
    place = changed(source, tmp_path / "other", model_type="llama")
    with pytest.raises(DataError, match="type 'llama', which is not supported"):
        sources._needed(tmp_path / "other")
    assert place and sources._needed(source) == (sources.PROCESSORS,)
    changed(source, tmp_path / "texts", model_type="owlv2")
    (tmp_path / "texts" / "preprocessor_config.json").unlink()
    assert "tokenizer.json" in sources._needed(tmp_path / "texts")[1]
