"""A run of an mmengine config that is served: requests for different names in one batch, windows, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vladapt.core.contracts.domain import Domain
from vladapt.core.contracts.items import DomainData, Item
from vladapt.core.contracts.serving import NoneReadable, Serving, Wishes
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.tasks.config_training import serving
from vladapt.core.tasks.config_training.serving import KEPT, Finder, ServedConfig


class Echo(Finder):
    """Says of an image its id, of how many it was one, and by which names it was looked at."""

    options, any_names, score = ("score", "classes"), True, 0.4

    def __init__(self, names, made):
        self.names, self.made = names, made
        made.append(names)

    def ready(self, item):
        return float(np.asarray(Image.open(item.source)).mean())

    def find(self, images):
        if any("bad" in item.id for item, _ in images):
            raise DataError("no numbers")
        return [{"names": list(self.names), "grey": grey, "of": len(images), "score": 0.5} for _, grey in images]

    def find_in_windows(self, data):
        return {"names": list(self.names), "windows": [item.id for item in data.items], "score": 0.5}

    def check_names(self, names):
        if not names:
            raise ConfigError("--classes names no class")

    def named(self, names):
        if "stuff" in names:
            raise CapabilityError("'stuff' stands before things")
        return Echo(names, self.made)

    def chosen(self, row, names, score):
        return {**row, "kept": score is None or row["score"] >= score}

    def notes(self):
        return ["a note"] if "odd" in self.names else []


class Cutting(Domain):
    """Cuts pictures that are wider than 32 pixels in two."""

    name, tasks = "cutting", ("detection",)

    def read_images(self, paths, **options):
        items = []
        for path in paths:
            width, height = Image.open(path).size
            whole = {Item.WHOLE: [height, width]}
            parts = [{**whole, "box": [x, 0, x + width // 2, height]} for x in (0, width // 2)] if width > 32 else [{}]
            names = [str(path)] if len(parts) == 1 else [f"{path}#0_{part['box'][0]}" for part in parts]
            items += [Item(name, path, decode=part) for name, part in zip(names, parts)]
        return DomainData(items, (), loader((IMAGE,)))

    def read(self, path, task, **options):
        raise NotImplementedError

    def sample(self, task):
        raise NotImplementedError

    def templates(self, task):
        return []


@pytest.fixture
def served(monkeypatch, tmp_path):
    """served() -> a run that is served, and the names of each finder that was made."""
    made = []
    monkeypatch.setattr(serving.KeptModel, "load", lambda kept, device: nn.Linear(1, 1))
    monkeypatch.setattr(serving, "load_backbone", lambda spec, device: SimpleNamespace(device=torch.device("cpu")))
    info = SimpleNamespace(backbone=SimpleNamespace(spec="toy"), task="detection")
    use = SimpleNamespace(run=SimpleNamespace(info=info, path=tmp_path / "run", shown="run", place=""), device="cpu")
    return ServedConfig(use, Cutting(), {}, lambda model: Echo(("cat", "dog"), made), Serving()), made


@pytest.fixture
def picture(tmp_path):
    def write(name: str, width: int = 16, grey: int = 9):
        Image.new("RGB", (width, 8), (grey,) * 3).save(tmp_path / name)
        return tmp_path / name

    return write


def prepared(model, *files, classes=None):
    samples, skipped = model.samples(files)
    assert skipped == []
    for sample in samples:
        sample.wishes = Wishes(classes=classes)
        model.prepare(sample)
    return samples


def test_requests_for_different_names_are_answered_apart_in_one_batch(served, picture):
    model, made = served
    one, two, three, four = (picture(f"{grey}.png", grey=grey) for grey in (1, 2, 3, 4))
    own, ants = prepared(model, one, two), prepared(model, three, classes=("ant",))
    mixed = [own[0], *ants, *prepared(model, four, classes=("bee",)), own[1]]
    model.answer(mixed)
    rows = [model.rows([sample], [], sample.wishes)["predictions"][0] for sample in mixed]
    assert [row["names"] for row in rows] == [["cat", "dog"], ["ant"], ["bee"], ["cat", "dog"]]
    assert [(row["grey"], row["of"]) for row in rows] == [(1, 2), (3, 1), (4, 1), (2, 2)]
    assert rows[0]["id"] == str(one) and made == [("cat", "dog"), ("ant",), ("bee",)]
    model.answer(prepared(model, one, classes=("ant",)))
    assert made[3:] == [], "names that were asked for lately are kept"


def test_few_sets_of_names_are_kept(served, picture):
    model, made = served
    for number in range(KEPT + 1):
        model.answer(prepared(model, picture("a.png"), classes=(f"name {number}",)))
    model.answer(prepared(model, picture("a.png"), classes=("name 1",)))
    assert len(made) == KEPT + 2
    model.answer(prepared(model, picture("a.png"), classes=("name 0",)))
    assert len(made) == KEPT + 3, "the oldest was given up"


def test_a_picture_in_windows_is_one_answer_and_takes_no_memory_while_it_waits(served, picture):
    model, _ = served
    small, wide = prepared(model, picture("a.png"), picture("b.png", width=64))
    assert small.prepared is not None and wide.prepared is None
    model.answer([wide, small])
    rows = model.rows([small, wide], [], Wishes(score=0.6))["predictions"]
    assert rows[1]["windows"] == [f"{wide.id}#0_0", f"{wide.id}#0_32"] and rows[0]["of"] == 1
    assert [row["kept"] for row in rows] == [False, False]


def test_names_that_the_model_cannot_take_are_the_requests_own_fault(served, picture):
    model, _ = served
    wrong, right = prepared(model, picture("a.png"), classes=("stuff",)), prepared(model, picture("b.png"))
    model.answer([*wrong, *right])
    with pytest.raises(ConfigError, match="'stuff' stands before things"):
        model.rows(wrong, [], wrong[0].wishes)
    assert model.rows(right, [], Wishes())["predictions"][0]["names"] == ["cat", "dog"]
    with pytest.raises(ConfigError, match="names no class"):
        model.check(Wishes(classes=()))
    many = tuple(map(str, range(1501)))
    for wishes, words in (
        (Wishes(score=1.5), "score=1.5: give a number"),
        (Wishes(top=2), "top: not an option"),
        (Wishes(classes=many), "1501 names; give 1500 at most"),
    ):
        with pytest.raises(ConfigError, match=words):
            model.check(wishes)


def test_notes_are_of_the_names_that_were_asked_for(served, picture):
    model, _ = served
    samples = prepared(model, picture("a.png"), classes=("odd",))
    model.answer(samples)
    assert model.rows(samples, [], samples[0].wishes)["notes"] == ["a note"]
    plain = prepared(model, picture("a.png"))
    model.answer(plain)
    assert "notes" not in model.rows(plain, [], Wishes())


def test_a_client_is_told_what_it_may_ask_for(served):
    model, _ = served
    facts = vars(model.facts)
    assert facts["task"] == "detection" and list(facts["options"]) == ["score", "classes"]
    assert facts["class_names"] == ["cat", "dog"] and facts["any_names"] and facts["score"] == 0.4
    assert len(model.examples(3)) == 3 and model.examples(1)[0].prepared == 127.0


def test_a_run_has_no_labelled_images_to_name(served):
    model, _ = served
    with pytest.raises(ConfigError, match="--training-ids: this run names no images"):
        ServedConfig(None, model._domain, {}, lambda model: None, Serving(training_ids=True))


def test_nothing_readable_is_told_of_each_image(served, picture):
    model, _ = served
    samples = prepared(model, picture("bad.png"))
    samples[0].answer = DataError("no numbers")
    with pytest.raises(NoneReadable, match="no numbers"):
        model.rows(samples, [], Wishes())
