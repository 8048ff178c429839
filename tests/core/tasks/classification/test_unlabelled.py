"""Images without labels: a folder whose classes --classes names, and what a method reads without labels."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import vladapt
from vladapt.core.contracts.adapter import Adapter, FitReport
from vladapt.core.engine.compare import compare
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.fitting import Unlabelled

NAMES = "crimson,leaf,sea"


@dataclass(eq=False, kw_only=True)
class Reads(Adapter):
    """Whatever is given without labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"features", "unlabeled", "pixels"})

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
        return FitReport("reads")

    def _logits(self, batch):
        return batch.unit[:, :2]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    """Factory: pictures in folders of these names, or in none."""

    def draw(*folders: str, images: int = 4):
        rng = np.random.default_rng(0)
        for number, folder in enumerate(folders or ("",)):
            place = tmp_path / "photos" / folder
            place.mkdir(parents=True)
            for i in range(images):
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(place / f"{number}-{i}.png")
        return tmp_path / "photos"

    return draw


def fit(spec, data, classes=NAMES, adapter="stat-a", **flags):
    return vladapt.fit(domain="natural", backbone=spec, data=str(data), classes=classes, adapter=adapter, **flags)


@pytest.mark.parametrize("folders", [(), ("one",), ("2020", "2021")], ids=["flat", "one folder", "years"])
def test_every_image_of_a_folder_without_labels_is_classified(small_clip_spec, pictures, folders):
    data = pictures(*folders)
    result = fit(small_clip_spec, data)
    rows = list(csv.DictReader((result.run / "predictions.csv").open()))
    assert len(rows) == 4 * max(1, len(folders)) == result.metrics["test_images"]
    assert {row["label"] for row in rows} <= set(NAMES.split(",")) and not result.metrics["adapted"]
    assert any("not used as labels." in note for note in result.notes) == (len(folders) > 1)
    again = {row["id"].split("/")[-1]: row["label"] for row in vladapt.predict(result.run, [data]).rows()}
    assert again == {row["id"].split("/")[-1]: row["label"] for row in rows}


def test_what_needs_labels_says_that_there_are_none(small_clip_spec, pictures):
    data = pictures("2020", "2021")
    with pytest.raises(CapabilityError, match="'ape' learns from labelled images, and no image of photos has a label"):
        fit(small_clip_spec, data, adapter="ape")
    recipe = resolve(flags={"data.path": str(data), "classes": NAMES, "backbone": small_clip_spec})
    with pytest.raises(CapabilityError, match="no image has a label, so methods cannot be compared"):
        compare(recipe, ["zlap"])


@pytest.mark.parametrize(
    ("folders", "classes", "flags", "words"),
    [
        (("cats", "dogs"), "cat,dog,bird", {}, "did you mean cats"),  # a slip
        (("cat", "dog"), "cat,bird", {"shots": 0}, "no class 'bird'"),  # some are classes of the data
        (("2020", "2021"), NAMES, {"shots": 4}, "no class 'crimson'"),  # labels are asked for
        ((), None, {}, "or name the classes with --classes"),
        ((), NAMES, {"shots": 4}, "or omit --shots 4"),
        ((), "cat", {}, "at least two classes"),
    ],
)
def test_what_may_be_a_slip_is_one_line(small_clip_spec, pictures, folders, classes, flags, words):
    with pytest.raises((ConfigError, DataError), match=words):
        fit(small_clip_spec, pictures(*folders), classes, **flags)


def test_with_no_shots_asked_for_names_like_those_of_folders_are_no_slip(small_clip_spec, pictures):
    result = fit(small_clip_spec, pictures("cats", "dogs"), "cat,dog,bird", shots=0)
    assert result.metrics["test_images"] == 8


@pytest.mark.parametrize(("shots", "left"), [(0, 10), (2, 6)])
def test_a_method_reads_the_training_images_beyond_the_shots(small_clip_spec, pictures, shots, left):
    data = pictures("cat", "dog", images=10)
    recipe = resolve(flags={"data.path": str(data), "shots": shots, "backbone": small_clip_spec})
    prepared = task_of(recipe).prepared(recipe, Reporter(quiet=True))
    drawn, reads = prepared.draw(shots, 1), Reads()
    read = Unlabelled.of(reads, prepared, drawn)
    train = {item.id for item in prepared.data.split("train")}
    assert len(train) == 10 and set(read.features.ids) == train - set(drawn.support.ids) and len(read.items) == left
    assert read.features.labels is None and tuple(item.id for item in read.items) == read.features.ids
    reads.label_free = True  # it looks at no shots, which are images like the others then
    assert set(Unlabelled.of(reads, prepared, drawn).features.ids) == train
    reads.transductive = True
    assert Unlabelled.of(reads, prepared, drawn).features.ids == prepared.test.ids
    images = read.images(prepared.training_images(drawn))
    assert images.items == read.items and not images.val
    reads.transductive, reads.needs = False, frozenset({"features"})
    assert Unlabelled.of(reads, prepared, drawn) == Unlabelled()


def test_where_all_train_images_are_shots_none_are_left(small_clip_spec, pictures):
    recipe = resolve(flags={"data.path": str(pictures("cat", "dog")), "shots": 9, "backbone": small_clip_spec})
    prepared = task_of(recipe).prepared(recipe, Reporter(quiet=True))
    with pytest.raises(CapabilityError, match="all 4 train images are shots; give fewer --shots"):
        Unlabelled.of(Reads(), prepared, prepared.draw(9, 1))


def test_without_labels_it_reads_the_images_that_it_is_asked_about(small_clip_spec, pictures):
    recipe = resolve(flags={"data.path": str(pictures()), "classes": NAMES, "backbone": small_clip_spec})
    prepared = task_of(recipe).prepared(recipe, Reporter(quiet=True))
    read = Unlabelled.of(Reads(), prepared, prepared.draw(0, 1))
    assert read.features.ids == prepared.test.ids and len(read.items) == 4


def test_texts_come_as_resources_and_what_cannot_be_used_is_one_line(small_clip_spec, pictures, tmp_path):
    data, names = pictures(images=6), NAMES.split(",")
    apart = {one: {other: [f"{one}, not {other}"] for other in names if other != one} for one in names}
    texts = {"attributes": {name: [f"{name} paint"] for name in names}, "pair_attributes": apart}
    texts["realign_prompts"] = {"wall": ["a flat wall"]}
    for name, content in texts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "words.txt").write_text("wall\nsky \n\nleaf\n")
    given = {name: str(tmp_path / f"{name}.json") for name in texts} | {"vocabulary": str(tmp_path / "words.txt")}

    def notes(adapter, *wanted):
        options = {"name": adapter, "epochs": 1, "batch_size": 6}
        return " ".join(
            fit(small_clip_spec, data, adapter=options, resources={name: given[name] for name in wanted}).notes
        )

    said = notes("gta-clip", "attributes", "pair_attributes")
    assert "pairs of classes compared" in said and "No --resource" not in said
    said = notes("s3a", "vocabulary", "realign_prompts")
    assert "words found among 5" in said and "No --resource" not in said  # two of the classes are no words of the file
    with pytest.raises(ConfigError, match="--resource vocabulary: gta-clip does not use it; omit it, or take s3a"):
        notes("gta-clip", "vocabulary")
    (tmp_path / "words.txt").write_text("wall\n")
    with pytest.raises(DataError, match="1 words; give a text file of at least two"):
        notes("s3a", "vocabulary")
