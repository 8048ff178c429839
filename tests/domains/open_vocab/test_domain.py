"""The domain as the engine asks it: reading, choosing, the config behind a plan, names of a trained model."""

from dataclasses import replace

import pytest
from torch import nn

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from mmengine import Config

from vladapt import CapabilityError, ConfigError, DataError, UnknownNameError, load_domain
from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.recipes.resolve import resolve, task_in
from vladapt.core.runtime.progress import Reporter
from vladapt.domains.open_vocab import OpenVocab, shapes
from vladapt.testing import check_domain

BOXES = ((1.0, 1.0, 9.0, 9.0),)


@pytest.fixture
def domain():
    return OpenVocab()


@pytest.fixture
def task(domain):
    return task_in(domain, "detection")


@pytest.fixture
def data(tmp_path):
    """Twelve images of cats, dogs and emus, a third each in train, val and test."""
    items = [
        Item(f"{n}.png", tmp_path / f"{n}.png", target=Boxes(BOXES, (n % 3,), size=(10, 10)), split=split)
        for n, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)
    ]
    return DomainData(items, ("cat", "dog", "emu"), load=None, kind="boxes", name="pets")


def _recipe(**flags):
    return resolve(flags={"domain": "open-vocab", **flags})


def test_it_is_found_by_name_with_its_tasks():
    domain = load_domain("open-vocab")
    assert isinstance(domain, OpenVocab) and domain.tasks == ("detection", "segmentation")
    assert domain.templates("detection") == ["a photo of a {}."]
    tasks = [task_in(domain, name) for name in domain.tasks]
    assert [task.deciding for task in tasks] == ["AP", "mIoU"]
    assert {task.default_recipe for task in tasks} <= set(domain.recipes)


# Reading


def test_a_set_that_it_reads_keeps_the_contract(domain, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 6, "val": 2, "test": 3})
    check_domain(domain, data=shapes.shapes_folder())


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_sample_is_drawn_and_says_so(domain, task, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 3, "val": 1, "test": 2})
    data = domain.sample(task)
    assert data.kind == {"detection": "boxes", "segmentation": "masks"}[task]
    assert (
        data.name == "shapes"
        and data.licence == "CC0-1.0"
        and "pentagons and grey shapes have no name" in data.notes[-1]
    )
    assert len(data.split("test")) == 2 and set(shapes.NAMES) <= set(data.class_names)
    assert (data.load_mask is not None) == (task == "segmentation")


def test_reading_options_are_those_of_the_task(domain, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 6, "val": 2, "test": 2})
    folder = shapes.shapes_folder()
    assert domain.read(folder, "detection", class_names="blue star, red circle").class_names == (
        "blue star",
        "red circle",
    )
    assert domain.read(folder, "segmentation", background=False).class_names == shapes.NAMES
    with pytest.raises(UnknownNameError, match="'open-vocab' has no option 'class_nams'; did you mean class_names"):
        domain.read(folder / "absent", "detection", class_nams="a")
    with pytest.raises(ConfigError, match=r"--set data\.background: not used by detection; omit it"):
        domain.read(folder / "absent", "detection", background=False)
    with pytest.raises(ConfigError, match=r"option background=maybe of domain 'open-vocab' .* give yes or no"):
        domain.read(folder / "absent", "segmentation", background="maybe")
    assert domain.read(folder, "segmentation", background="no").class_names == shapes.NAMES
    with pytest.raises(DataError, match="no such file or folder; give COCO"):
        domain.read(folder / "absent", "detection")


# Choosing


def test_nothing_is_chosen_where_nothing_is_asked_for(task, data):
    assert task.choose(_recipe(), data) is data
    assert task.choose(_recipe(classes="all"), data) is data


def test_classes_novel_ones_and_shots_are_chosen_together(task, data):
    chosen = task.choose(_recipe(classes="emu, Cat", novel="emu", shots=1), data)
    assert chosen.class_names == ("emu", "Cat")
    train, test = chosen.split("train"), chosen.split("test")
    assert [item.target.labels for item in train] == [(1,)]
    assert [item.target.labels for item in test] == [(1,), (), (0,)]
    assert any("novel classes, only tested: 1" in note for note in chosen.notes)


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_images_that_show_a_novel_class_stay_or_leave_as_is_asked(domain, data, name):
    both = data.items[0].target
    both = replace(both, boxes=both.boxes * 2, labels=(0, 2))
    data = data.with_items([data.items[0].with_(target=both), *data.items[1:]])
    task, first = task_in(domain, name), data.items[0].id
    for options, there in (({}, True), ({"novel_images": "keep"}, True), ({"novel_images": "drop"}, False)):
        chosen = task.choose(task.settled(_recipe(task=name, novel="emu", **options)), data)
        assert (first in {item.id for item in chosen.split("train")}) == there
    with pytest.raises(ConfigError, match="novel_images=drop: no class is novel"):
        task.settled(_recipe(task=name, novel_images="drop"))


def test_the_seed_draws_the_shots(task, data):
    drawn = {
        seed: tuple(item.id for item in task.choose(_recipe(shots=1, seed=seed), data).split("train"))
        for seed in range(6)
    }
    again = task.choose(_recipe(shots=1, seed=3), data).split("train")
    assert len(set(drawn.values())) > 1 and tuple(item.id for item in again) == drawn[3]


def test_novel_alone_names_nothing(task, data):
    with pytest.raises(ConfigError, match='--novel "a,b", or coco or lvis'):
        task.settled(_recipe(novel=True))


def test_a_file_of_classes_is_found_from_any_folder(task, data, tmp_path, monkeypatch):
    (tmp_path / "names.txt").write_text("emu\ncat, kitten\n")
    monkeypatch.chdir(tmp_path)
    recipe = _recipe(classes="names.txt")
    monkeypatch.chdir("/")
    assert task.choose(recipe, data).class_names == ("emu", "cat")


# The config behind a plan


def test_the_tasks_own_recipe_is_planned_where_none_is_named(task, data):
    plan = task.plan(_recipe(), data, None)
    assert plan.model.type == "FasterRCNN" and plan.vladapt.classes == ["cat", "dog", "emu"]
    assert plan.model.roi_head.bbox_head.classifier.classes == ["cat", "dog", "emu"]


def test_what_is_said_of_classes_reaches_the_models_texts(task, data, tmp_path):
    (tmp_path / "said.json").write_text('{"cat": ["furry."], "dog": {"synonyms": ["hound"]}, "emu": []}')
    plan = task.plan(_recipe(classes=str(tmp_path / "said.json")), data, None)
    given = plan.model.roi_head.bbox_head.classifier.classes
    assert given["cat"] == {"synonyms": [], "descriptions": ["furry."]} and given["emu"] == {}
    assert plan.vladapt.described["dog"]["synonyms"] == ["hound"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 64}, "--set image_size=64: images are resized by the config's pipelines"),
        (
            {"descriptions": "x.json"},
            r"--set descriptions=x\.json: give descriptions with the names, --classes FILE\.json",
        ),
    ],
)
def test_what_a_config_says_itself_is_refused_as_an_option(task, data, flags, message):
    with pytest.raises(ConfigError, match=message):
        task.settled(_recipe(**flags))


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [
        ("hf:some/model", None, "hf:some/model"),
        ("hf:some/model", "embedded", "embedded"),
        ("hf:some/model", "open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        (None, None, "embedded"),
    ],
)
def test_the_backbone_is_the_configs_unless_another_is_given(task, own, asked, expected):
    recipe = _recipe(backbone=asked)
    recipe.plan = {"model": {"type": "FCOS", "bbox_head": {} if own is None else {"backbone": own}}}
    assert task.backbone_spec(recipe) == expected


def test_a_backbone_that_no_part_of_the_config_takes_is_refused(task, data):
    recipe = _recipe(backbone="embedded")
    recipe.plan = {"model": {"type": "FCOS", "bbox_head": {}}}
    with pytest.raises(ConfigError, match="--backbone embedded: no part of the config's model takes one; omit it"):
        task.plan(recipe, data, None)


# Names of a trained model


def test_names_of_a_model_without_texts_stay(task):
    model = nn.Linear(2, 2)
    model.cfg = Config({"vladapt": {"classes": ["cat", "dog"]}})
    with pytest.raises(CapabilityError, match="its classes are cat, dog"):
        task.rename(model, "emu")


def test_names_of_a_model_with_texts_are_replaced(task, small_clip_spec):
    from vladapt.domains.open_vocab.text_embeddings import TextEmbeddings

    model = nn.Sequential(TextEmbeddings(small_clip_spec, "cat, dog"))
    model.cfg = Config({"vladapt": {"classes": ["cat", "dog"]}})
    assert task.rename(model, "emu, fox, owl") == ("emu", "fox", "owl") == model[0].names


@pytest.mark.parametrize("name", ["mask-rcnn", "mask2former-panoptic"])
def test_boxes_without_outlines_are_refused_before_a_model_is_built(name, task, data, monkeypatch):
    def built(*args, **options):
        raise AssertionError("a backbone was built")

    monkeypatch.setattr("vladapt.core.tasks.config_training.base.load_backbone", built)
    recipe = task.settled(resolve(recipe=f"open-vocab/{name}"))
    with pytest.raises(DataError, match="pets: no training image has outlines"):
        task._planned(recipe, data, Reporter(quiet=True))
    square = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    outlined = [item.with_(target=replace(item.target, segments=(square,))) for item in data.items]
    with pytest.raises(AssertionError, match="a backbone was built"):
        task._planned(recipe, data.with_items(outlined), Reporter(quiet=True))
