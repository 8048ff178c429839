"""Person search: identities decide what is relevant, what is trained on, and how sure a number is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt import ConfigError, DataError
from vladapt.core.contracts.recipe import Recipe
from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.metrics.retrieval import image_text_rankings
from vladapt.core.registry import task_class
from vladapt.core.tasks.retrieval.scoring import DomainPairs, evaluate_retrieval
from vladapt.domains.person import Person, domain
from vladapt.domains.person.care import HEADING
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.tasks.person_search import PeoplePairs, PersonSearch
from vladapt.testing import check_task

SMALL = {"identities": 12, "images_per_identity": 3, "cameras": 3, "seed": 1, "size": (32, 16), "val": 2, "test": 4}
HOW = {"name": "full", "loss": "irra", "epochs": 2, "batch_size": 12, "lr": 1e-3, "select": "best_val"}
HOW |= {"loss_options": {"irra": {"depth": 1, "most_words": 24}}, "training": {"optimizer": "adam", "head_rate": 5.0}}


@pytest.fixture(scope="module")
def small_sample():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain, "SAMPLE", SMALL)
        yield


@pytest.fixture(scope="module")
def generic(tmp_path_factory):
    """A folder of two generic classes, which are cheaper than all drawn ones."""
    folder = tmp_path_factory.mktemp("generic")
    for number in range(4):
        place = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place)
    return str(folder)


@pytest.fixture(scope="module")
def fitted(small_sample, small_clip_spec, generic, tmp_path_factory):
    """A run of `irra` on a few generated people."""
    how = {"backbone": small_clip_spec, "out": str(tmp_path_factory.mktemp("runs")), "seed": 3, "generic": generic}
    return vladapt.fit(domain="person", task="person-search", data="sample", adapter=HOW, **how)


@pytest.fixture(scope="module")
def people():
    return PeoplePairs.of(DomainPairs.of(drawn_pedestrians(**SMALL)))


def read(people_options=(), data=None):
    """The data that the task reads, of a domain that reads `data`."""

    class Given(Person):
        def read(self, path, task=None, **options):
            return data

        def sample(self, task=None):
            return drawn_pedestrians(**SMALL) if data is None else data

    task = PersonSearch(Given())
    recipe = task.settled(Recipe(domain="person", task="person-search", data={"path": "sample"}))
    options = {**recipe.task_options, **dict(people_options)}
    return task, recipe.with_(task_options=options), task.read(recipe.with_(task_options=options))


def test_numbers_are_those_of_identities(fitted, people):
    """Of features, written out: all pictures and sentences of a person are relevant."""
    backbone = vladapt.load_backbone(str(fitted.run))
    test, transform = people.split("test"), Person().transforms(backbone, False, "person-search")
    images = backbone.encode_image(torch.stack([transform(test.load_image(row)) for row in range(len(test))]))
    texts = [(row, text) for row, item in enumerate(test.items) for text in item.captions()]
    found = backbone.encode_text([text for _, text in texts]) @ images.T  # (M, N)
    labels = torch.tensor(test.labels)
    of_text = labels[torch.tensor([row for row, _ in texts])]
    for direction, scores, mine, others in (
        ("text_to_image", found, of_text, labels),
        ("image_to_text", found.T, labels, of_text),
    ):
        hits = (others[scores.argsort(dim=1, descending=True)] == mine[:, None]).double()  # (Q, G)
        ranks = torch.arange(1, hits.shape[1] + 1)
        precision = (hits * hits.cumsum(dim=1) / ranks).sum(dim=1) / hits.sum(dim=1)
        last = (hits * ranks).amax(dim=1)
        wanted = {
            "r1": hits[:, 0].mean(),
            "r5": hits[:, :5].amax(dim=1).mean(),
            "map": precision.mean(),
            "minp": (hits.sum(dim=1) / last).mean(),
        }
        for name, value in wanted.items():
            assert fitted.metrics["adapted"][f"{direction}/{name}"] == pytest.approx(float(value), abs=1e-6), name
    assert fitted.metrics["test_images"] == 12 and fitted.metrics["test_texts"] == 24


def test_the_contract_of_tasks(small_sample, generic):
    how = {"name": "lora", "epochs": 1, "batch_size": 16}
    check_task(task_class("person-search"), Person(), data="sample", generic=generic, adapter=how)


def test_intervals_draw_people(fitted):
    assert fitted.metrics["test_groups"] == 4
    between = fitted.metrics["metric_intervals"]["adapted"]
    for name in ("text_to_image/r1", "text_to_image/minp", "image_to_text/map"):
        low, high = between[name]
        assert low <= fitted.metrics["adapted"][name] <= high
    assert fitted.metrics["mcnemar"]["text_to_image"].get("exchanged") == "groups"


def test_the_epoch_is_chosen_on_val(fitted):
    assert [row["epoch"] for row in fitted.report.history] == [1, 2]
    assert all("val" in row for row in fitted.report.history)
    assert fitted.report.chosen["epoch"] == max(fitted.report.history, key=lambda row: row["val"])["epoch"]


def test_a_run_tells_what_it_is_and_what_to_mind(fitted):
    card, page = (Path(fitted.run, name).read_text(encoding="utf-8") for name in ("CARD.md", "report.html"))
    assert HEADING in card and HEADING in page and "person-search" in card
    assert json.loads(Path(fitted.run, "run.json").read_text())["task"] == "person-search"
    measures = [cell for column in fitted.task.table(fitted.metrics).columns for cell in column.cells]
    assert "text to image: mINP ↑" in measures and "image to text: mINP ↑" in measures


def test_a_run_is_scored_again(fitted, small_sample):
    again = vladapt.evaluate(fitted.run, split="test")
    assert again["adapted"] == pytest.approx(fitted.metrics["adapted"])


def test_who_is_trained_on_has_the_first_labels(people):
    assert sorted(set(people.split("train").labels)) == list(range(6))
    assert set(people.split("val").labels) == {6, 7} and set(people.split("test").labels) == {8, 9, 10, 11}


def test_each_caption_is_a_sample_or_each_picture():
    _, _, by_caption = read()
    _, _, by_picture = read({"each_caption": False})
    train = by_caption.part("train")
    rows, pictures = by_caption.teaching(train), by_picture.teaching(train)
    assert len(rows) == 2 * len(train) == 2 * len(pictures)
    assert all(len(pair.captions) == 1 for pair in rows)
    assert [pair.image for pair in rows] == [row for row in range(len(train)) for _ in range(2)]
    assert [pair.label for pair in rows] == [pair.label for pair in train for _ in range(2)]
    assert len({pair.id for pair in rows}) == len(rows)


@pytest.mark.parametrize("pictures", [2, 3])
def test_batches_of_several_people(pictures):
    _, _, data = read({"sampler": "random-identity", "pictures": pictures})
    rows = data.teaching(data.part("train"))
    plan = data.plan(rows, 12, 1)
    assert plan.batch_size == 12 // pictures * pictures
    for batch in plan.rows(0):
        labels = [rows.labels[row] for row in batch]
        assert all(len(set(labels[i : i + pictures])) == 1 for i in range(0, len(batch), pictures))
    _, _, at_random = read()
    assert at_random.plan is None
    with pytest.raises(ConfigError, match=f"pictures={pictures}"):
        data.plan(rows, pictures - 1, 1)


def test_names_are_hidden_unless_people_are_shown():
    skipped = [("person-00003/c1-000", "person-00003_c1.png is damaged")]
    task, recipe, data = read({"show_people": False})
    hidden = task.redaction(recipe, data, skipped, False)
    info = RunInfo.from_json({"skipped": skipped, "recipe": {}, "data": {}})
    assert "person-00003" not in str(hidden.pairs(skipped)) and "person-00003" not in str(dict(hidden.info(info)))
    task, recipe, data = read({"show_people": True})
    assert task.redaction(recipe, data, skipped, False) is None


def test_a_picture_of_nobody_known_stands_alone(people):
    items = [item.with_(target=replace(item.target, identity=None)) for item in people.items[:2]]
    some = PeoplePairs.of(replace(people, items=(*items, *people.items[2:])))
    assert len({int(label) for label in some.labels[:3]}) == 3 and (some.labels >= 0).all()


def test_what_has_no_captions_is_no_search():
    data = drawn_pedestrians(**SMALL)
    silent = [
        item.with_(target=replace(item.target, texts=())) if item.split == "test" else item for item in data.items
    ]
    with pytest.raises(DataError, match=r"no picture of split 'test' has a caption.*re-identification"):
        read(data=data.with_items(silent))


def test_labels_decide_in_core(small_clip, people):
    """Of any pairs: what has the label of a query is relevant; without labels that is said."""
    images, texts = torch.eye(4)[:3], torch.eye(4)[[0, 1, 2, 0]]
    of_pairs = image_text_rankings(images, texts, torch.tensor([0, 1, 2, 1]))
    of_labels = image_text_rankings(images, texts, torch.tensor([0, 1, 2, 1]), labels=torch.tensor([5, 5, 6]))
    assert of_pairs["image_to_text"].relevant.tolist() == [1, 2, 1]
    assert of_labels["image_to_text"].relevant.tolist() == [3, 3, 1]
    assert of_labels["text_to_image"].best.tolist() == [1, 1, 1, 1]
    without = DomainPairs.of(people.data.with_items(people.items[-2:]))
    with pytest.raises(DataError, match="some images have no label"):
        evaluate_retrieval(small_clip, without, split=None, by_label=True)
