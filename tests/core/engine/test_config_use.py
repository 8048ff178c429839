"""A run of a task that its domain owns, used again: on its own data, on other data, on new images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vladapt
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError, VladaptError

THIRD_PARTY = Path(__file__).parent / "third_party"
pytestmark = pytest.mark.usefixtures("in_toy_folder")
SHORT = {"train_cfg": {"max_epochs": 5}}


@pytest.fixture(scope="module")
def fitted(small_clip_spec, tmp_path_factory):
    """One run for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(THIRD_PARTY))
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return vladapt.fit(
            domain="toy-boxes", backbone=small_clip_spec, plan=SHORT, out=str(tmp_path_factory.mktemp("runs"))
        )


def counts(fitted):
    return {split: len(ids) for split, ids in json.loads((fitted.run / "run.json").read_text())["splits"].items()}


def test_a_run_scored_again_gives_the_numbers_of_its_fit(fitted):
    again = vladapt.evaluate(fitted.run)
    assert again["adapted"] == fitted.metrics["adapted"]
    assert again["test_images"] == fitted.metrics["test_images"] == counts(fitted)["test"]
    assert again["zero_shot"] is None and again["notes"] == ["a note of <script>the domain</script>"]


def test_other_splits_are_scored_on_their_own_images(fitted):
    there = counts(fitted)
    found = {split: vladapt.evaluate(fitted.run, split=split) for split in ("train", "val", "all")}
    assert {split: of["test_images"] for split, of in found.items()} == {
        "train": there["train"],
        "val": there["val"],
        "all": 64,
    }
    assert len({of["adapted"]["mean_error"] for of in found.values()}) == 3
    with pytest.raises(UnknownNameError, match="--split tset: no such split; did you mean test"):
        vladapt.evaluate(fitted.run, split="tset")


def test_the_first_line_says_how_many_images_taught_or_chose(fitted):
    """Also of a task that trains a config."""
    there, info = counts(fitted), json.loads((fitted.run / "run.json").read_text())
    assert {split: len(of) for split, of in info["digests"].items()} == {s: there[s] for s in ("train", "val")}
    found = {split: vladapt.evaluate(fitted.run, split=split) for split in ("train", "test", "all")}
    assert {split: of["in_fit"] for split, of in found.items()} == {
        "train": there["train"],
        "test": 0,
        "all": there["train"] + there["val"],
    }
    assert found["test"]["in_fit_words"] == f"None of the {there['test']} images were in the fit."


def test_an_evaluation_begins_its_report_with_that_sentence(fitted, tmp_path):
    found = vladapt.evaluate(fitted.run, split="train", out=tmp_path / "there")
    assert found["in_fit_words"] in (tmp_path / "there" / "report.html").read_text()


def test_other_data_is_tested_on_whole_where_it_has_no_splits(fitted, tmp_path):
    found = vladapt.evaluate(fitted.run, data=str(tmp_path))
    assert found["test_images"] == 64
    assert vladapt.evaluate(fitted.run, data=str(tmp_path), split="val")["test_images"] == counts(fitted)["val"]


def test_what_a_recipe_chooses_is_chosen_again_of_all_images(fitted, monkeypatch):
    """As the classes of the fit, without which a model of those could not be scored."""
    import toy_config_tasks

    def half(self, recipe, data):
        return data.with_items([item for item in data.items if item.decode["index"] % 2])

    monkeypatch.setattr(toy_config_tasks.BoxTask, "choose", half)
    assert vladapt.evaluate(fitted.run, split="all")["test_images"] == 32
    assert vladapt.evaluate(fitted.run, split="all", data=str(fitted.run))["test_images"] == 64


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": "a, b"}, "detection of domain 'toy-boxes' has fixed classes; omit --classes"),
        ({"features": "x.npz"}, "--features: detection of domain 'toy-boxes' does not use it; omit it"),
        ({"resources": {"boxes": "b.json"}}, "--resource: detection of domain 'toy-boxes'"),
    ],
)
def test_what_the_task_does_not_use_is_refused(fitted, options, says):
    with pytest.raises(VladaptError, match=says):
        vladapt.evaluate(fitted.run, **options)


def test_new_images_are_predicted_by_the_model_of_the_run(fitted):
    rows = vladapt.predict(fitted.run, ["9", "30"]).rows()
    assert [row["id"] for row in rows] == ["scenes-009", "scenes-030"]
    assert rows == vladapt.predict(fitted.run, ["9", "30"]).rows() != vladapt.predict(fitted.run, ["8", "30"]).rows()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": "found"}, "domain 'toy-boxes' writes no files of its predictions; omit --out, use --json"),
        ({"classes": "a"}, "fixed classes"),
        ({"resources": {"boxes": "b.json"}}, "--resource"),
    ],
)
def test_what_a_prediction_cannot_give_is_refused(fitted, options, says):
    with pytest.raises(VladaptError, match=says):
        vladapt.predict(fitted.run, ["9"], **options)


def test_nothing_is_predicted_and_no_folder_made_where_no_files_can_be_written(fitted, tmp_path, monkeypatch):
    import toy_config_tasks

    monkeypatch.setattr(toy_config_tasks.BoxTask, "look", lambda *a: pytest.fail("predicted"))
    with pytest.raises(CapabilityError, match="writes no files"):
        vladapt.predict(fitted.run, ["9"], out="found")
    assert not (tmp_path / "found").exists()


def test_a_folder_that_cannot_be_made_is_told(fitted, tmp_path, monkeypatch):
    import toy_config_tasks

    monkeypatch.setattr(toy_config_tasks.BoxTask, "save", lambda *a: [])
    monkeypatch.setattr(toy_config_tasks.BoxTask, "can", frozenset({"predict", "save"}))
    (tmp_path / "found").write_text("a file")
    with pytest.raises(DataError, match=r"--out found: cannot be made .*give a writable folder"):
        vladapt.predict(fitted.run, ["9"], out="found")


def test_images_that_cannot_be_decoded_are_named_and_the_others_predicted(fitted, monkeypatch):
    import toy_config_tasks

    def load(item):
        if item.decode["index"] == 8:
            raise DataError("scene 8: damaged")
        return toy_config_tasks.scene(item)

    read = toy_config_tasks.ToyBoxes.read
    monkeypatch.setattr(
        toy_config_tasks.ToyBoxes,
        "read",
        lambda self, *a, **o: vladapt.DomainData(read(self, *a, **o).items, ("square",), load),
    )
    found = vladapt.predict(fitted.run, ["8", "9"])
    assert [row["id"] for row in found.rows()] == ["scenes-009"]
    assert found.skipped == [("scenes-008", "scene 8: damaged")]
    with pytest.raises(DataError, match="no readable image among what was given; scenes-008: scene 8: damaged"):
        vladapt.predict(fitted.run, ["8"])


def test_a_run_that_is_damaged_is_told(fitted, without_digests, tmp_path):
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(fitted.run, damaged)
    (damaged / "adapter.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match=r"adapter.safetensors: damaged or replaced"):
        vladapt.predict(damaged, ["9"])
    without_digests(damaged)
    with pytest.raises(DataError, match=r"adapter.safetensors: does not fit the run's model .*; fit again"):
        vladapt.predict(damaged, ["9"])


def test_a_run_without_a_model_names_no_other_classes(small_clip_spec, tmp_path):
    result = vladapt.fit(domain="toy-captions", backbone=small_clip_spec)
    assert vladapt.evaluate(result.run)["adapted"] == result.metrics["adapted"]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(CapabilityError, match="nothing was trained in this run; omit --classes"):
        vladapt.predict(result.run, [tmp_path / "a.png"], classes="a")


def test_the_page_shows_the_domains_sections_and_runs_none_of_its_names(fitted):
    page = (fitted.run / "report.html").read_text()
    assert "By &lt;corner&gt;" in page and "x0 &lt;b&gt;" in page
    assert "&lt;script&gt;x()&lt;/script&gt;" in page and "a note of &lt;script&gt;the domain&lt;/script&gt;" in page
    assert "<script" not in page.replace("&lt;script", "")
    assert "How the training went" in page and "mean error" in page and "%" not in page.partition("All scores")[2][:400]


def test_what_only_adapters_take_is_refused_whatever_its_value(small_clip_spec):
    for flags, says in [
        ({"adapter": "ape"}, "--adapter ape: detection of domain 'toy-boxes' trains a config, not an adapter"),
        ({"adapter": "tip-adapter"}, "--adapter tip-adapter: detection of domain 'toy-boxes' trains a config"),
        ({"adapter": {"name": "tip-adapter", "alpha": 2.0}}, "adapter"),
        ({"generic": "folder"}, "--generic folder: detection of domain 'toy-boxes' does not use it; omit it"),
        ({"resources": {"captions": "c.txt"}}, "--resource captions=c.txt: detection"),
        ({"templates": "a {}"}, "--set templates=a {}: detection"),
    ]:
        with pytest.raises(ConfigError, match=says):
            vladapt.fit(domain="toy-boxes", backbone=small_clip_spec, **flags)


@pytest.mark.parametrize(("option", "given"), [("--batch-size", {"batch_size": 2}), ("--workers", {"workers": 0})])
def test_predict_refuses_what_the_task_does_not_use(fitted, option, given):
    with pytest.raises(ConfigError, match=option):
        vladapt.predict(fitted.run, ["9"], **given)


def test_rows_are_written_into_a_folder_also_where_the_task_writes_no_files(fitted, tmp_path):
    made = vladapt.predict(fitted.run, ["9", "30"], out="found", outputs="jsonl")
    assert [file.name for file in made.files] == ["predictions.jsonl"]
    written = [json.loads(line) for line in (tmp_path / "found" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == ["scenes-009", "scenes-030"]


def test_masks_reach_the_kinds_that_are_made_of_them(fitted, tmp_path, monkeypatch):
    import toy_config_tasks

    from vladapt.api import OutputKind
    from vladapt.core.contracts import LabelMap
    from vladapt.core.registry import build

    class Shapes(OutputKind):
        made_of = OutputKind.MASKS

        def write(self, predicted, use, task, folder):
            shapes = {name: predicted.label_map(name).values.shape for name in predicted.ids}
            assert [predicted.sources[name][0].id for name in predicted.ids] == predicted.ids
            (folder / "shapes.json").write_text(json.dumps(shapes))
            return [folder / "shapes.json"]

    monkeypatch.setattr(build, "output_class", lambda name: Shapes)
    with pytest.raises(VladaptError, match=r"is made of masks, which .* does not give"):
        vladapt.predict(fitted.run, ["9"], out="found", outputs="shapes")
    monkeypatch.setattr(toy_config_tasks.BoxTask, "gives", frozenset({OutputKind.MASKS}))
    monkeypatch.setattr(
        toy_config_tasks.BoxTask, "label_map", lambda task, row, names: LabelMap(np.zeros((len(row["id"]), 2)), {})
    )
    vladapt.predict(fitted.run, ["9", "30"], out="found", outputs="shapes")
    assert json.loads((tmp_path / "found" / "shapes.json").read_text()) == {
        "scenes-009": [10, 2],
        "scenes-030": [10, 2],
    }
    monkeypatch.setattr(Shapes, "check_sources", lambda kind, items: pytest.fail(f"{len(items)} items are told"))
    monkeypatch.setattr(toy_config_tasks.BoxTask, "look", lambda *a: None)
    with pytest.raises(pytest.fail.Exception, match="2 items are told"):
        vladapt.predict(fitted.run, ["9", "30"], out="found", outputs="shapes")
