"""Names compared, base and novel classes, few examples, files of items, and what a data set of a config is."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vladapt import ConfigError, DataError
from vladapt.core.contracts.items import Boxes, DomainData, Item, Mask
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.domains.open_vocab.data import (
    check_names,
    choose_classes,
    draw_shots,
    hold_out,
    read_detection,
    read_items,
    read_segmentation,
    split_novel,
    write_items,
)
from vladapt.domains.open_vocab.data.chosen import chosen_data
from vladapt.domains.open_vocab.data.masks import MaskReader
from vladapt.domains.open_vocab.data.novel import COCO_BASE, COCO_NOVEL

BOX = (0.0, 0.0, 9.0, 9.0)


def scene(number, labels, split="train", **fields):
    digest = {"digest": str(number)}
    boxes = Boxes((BOX,) * len(labels), tuple(labels))
    return Item(f"s{number}", __file__, digest, boxes, split=split, **fields)


def scenes(*items, names=("cat", "dog", "emu")):
    return DomainData(list(items), names, load=None, kind="boxes", name="scenes")


def test_names_that_differ_are_shown_whole_with_the_nearest():
    check_names(["a cat", "dog"], ["dog", "a_cat"], ["A cat", "dog"])
    with pytest.raises(ConfigError) as caught:
        check_names(["cat", "dgo", "emu"], ["cat", "dog"])
    said = str(caught.value)
    assert "the config has 3 classes (cat, dgo, emu) and the annotation has 2 (cat, dog)" in said
    assert "only in the config: 'dgo' ('dog'?), 'emu'" in said and "only in the annotation: 'dog'" in said
    with pytest.raises(ConfigError, match=r"the annotation has 1 classes .* and the prompt has 2"):
        check_names(None, ["cat"], ["cat", "emu"])
    with pytest.raises(ConfigError, match=r"only in the config: 'Cat'"):
        check_names(["Cat"], ["cat"], exact=True)


def test_the_published_coco_split_is_48_to_17():
    assert len(set(COCO_BASE)) == 48 and len(set(COCO_NOVEL)) == 17 and not set(COCO_BASE) & set(COCO_NOVEL)
    split = split_novel([*COCO_NOVEL, "wine glass", *COCO_BASE], "coco")
    assert split.base == COCO_BASE and split.novel == COCO_NOVEL and split.left_out == ("wine glass",)
    with pytest.raises(ConfigError, match=r"the data have none of OV-COCO's"):
        split_novel(["raccoon"], "coco")


def test_the_coco_split_fits_the_names_of_real_data(data_dir):
    names = read_detection(data_dir / "detection_seg/coco_val128").class_names
    split = split_novel(names, "coco")
    assert (len(split.base), len(split.novel), len(split.left_out)) == (48, 17, 15)


def test_rare_classes_of_lvis_are_novel():
    split = split_novel(["a", "b", "c"], "lvis", ["f", "r", "c"])
    assert split.base == ("a", "c") and split.novel == ("b",)
    with pytest.raises(DataError, match=r"do not say how frequent"):
        split_novel(["a", "b"], "lvis")


def test_named_novel_classes_are_looked_up():
    assert split_novel(["cat", "dog", "emu"], " emu, cat").novel == ("cat", "emu")
    with pytest.raises(ConfigError, match=r"no class 'dgo'; did you mean dog?"):
        split_novel(["cat", "dog"], "dgo")
    with pytest.raises(ConfigError, match=r"nothing to train on"):
        split_novel(["cat"], "cat")


def test_training_knows_base_objects_alone_and_the_test_keeps_all():
    data = scenes(scene(1, (0, 2)), scene(2, (2,)), scene(3, ()), scene(4, (2, 1), "test"), scene(5, (2,), "val"))
    held = hold_out(data, split_novel(data.class_names, "emu"))
    assert [(item.id, item.target.labels) for item in held.items] == [("s1", (0,)), ("s3", ()), ("s4", (2, 1))]
    assert "only novel objects, left out: 2" in " ".join(held.notes)
    kept = hold_out(data, split_novel(data.class_names, "emu"), keep_empty=True)
    assert [item.id for item in kept.items] == ["s1", "s2", "s3", "s4", "s5"]


def test_images_that_show_a_novel_class_leave_training_where_that_is_asked_for():
    data = scenes(scene(1, (0, 2)), scene(2, (1,)), scene(3, ()), scene(4, (2, 1), "test"), scene(5, (2, 0), "val"))
    held = hold_out(data, split_novel(data.class_names, "emu"), images="drop")
    assert [item.id for item in held.items] == ["s2", "s3", "s4"]
    assert "that show a novel class, left out (novel_images): 2" in " ".join(held.notes)
    with pytest.raises(DataError, match="novel_images=drop"):
        hold_out(data.with_items(data.items[:1]), split_novel(data.class_names, "emu"), images="drop")


@pytest.mark.parametrize("told", [True, False])
def test_so_do_masks_whose_labels_are_told_or_not(told):
    shown = {"a": (1.0, 0.0), "b": (1.0, 1.0), "c": (0.0, 1.0)}
    items = [
        Item(f"m{n}", __file__, {"index": n}, Mask(labels=shown[n] if told else None), split="train") for n in shown
    ]
    data = DomainData(items, ("sky", "sea"), lambda item: np.zeros((1, 3, 3), np.uint8), kind="masks")
    data.load_mask = lambda item: np.array([[*np.flatnonzero(shown[item.decode["index"]]), 255]], np.uint8)
    held = hold_out(data, split_novel(data.class_names, "sea"), images="drop")
    assert [item.id for item in held.items] == ["ma"]


def test_novel_pixels_are_ignored_in_training_and_counted_in_the_test(write_masks):
    folder = write_masks({"a": np.array([[0, 1]], np.uint8), "b": np.array([[0, 1]], np.uint8)})
    (folder / "classes.txt").write_text("sky\nsea\n")
    data = read_segmentation(folder)
    data = data.with_items([item.with_(split=split) for item, split in zip(data.items, ("train", "test"))])
    held = hold_out(data, split_novel(data.class_names, "sea"))
    assert [held.load_mask(item).tolist() for item in held.items] == [[[0, 255]], [[0, 1]]]
    assert held.items[0].target.labels == (1, 0)


def test_masks_that_a_set_makes_itself_take_a_choice_too(tmp_path):
    both = Mask(labels=(1.0, 1.0))
    items = [Item(f"m{n}", __file__, {"index": n}, both, split=s) for n, s in enumerate(("train", "test"))]
    data = DomainData(items, ("sky", "sea"), lambda item: np.zeros((1, 3, 3), np.uint8), kind="masks")
    data.load_mask = lambda item: np.array([[0, 1, 255]], np.uint8)
    held = hold_out(data, split_novel(data.class_names, "sky"))
    assert [held.load_mask(item).tolist() for item in held.items] == [[[255, 1, 255]], [[0, 1, 255]]]
    chosen = choose_classes(held, ["sea"])
    assert [chosen.load_mask(item).tolist() for item in chosen.items] == [[[255, 0, 255]]] * 2
    again = read_items(write_items(tmp_path / "items.json", chosen, images=tmp_path / "pictures"))
    assert again.load_mask(again.items[0]).tolist() == [[255, 0, 255]]


def test_k_objects_a_class_are_learned_from_and_the_surplus_is_ignored():
    data = scenes(*(scene(n, (0, 0, 1)) for n in range(4)), scene(8, (2,)), scene(9, (0,), "test"))
    drawn = draw_shots(data, 3, seed=0)
    learned = Counter(
        label
        for item in drawn.split("train")
        for label, left_out in zip(item.target.labels, item.target.ignored or (False,) * 3)
        if not left_out
    )
    assert learned == {0: 3, 1: 3, 2: 1}
    assert drawn.split("test") == data.split("test")
    kept = draw_shots(data, 3, seed=0, surplus="keep")
    assert all(item.target.ignored is None for item in kept.items) and len(kept.split("train")) == 4


def test_drawing_depends_on_the_seed_and_not_on_the_order():
    items = [scene(n, (n % 3,)) for n in range(30)]
    drawn = [draw_shots(scenes(*order), 2, seed=0).items for order in (items, items[::-1])]
    assert {item.id for item in drawn[0]} == {item.id for item in drawn[1]} and len(drawn[0]) == 6
    assert {item.id for item in draw_shots(scenes(*items), 2, seed=1).items} != {item.id for item in drawn[0]}
    first = drawn[0][0].id
    assert first not in {item.id for item in draw_shots(scenes(*items), 2, seed=0, exclude={first}).items}
    with pytest.raises(ConfigError, match=r"give a whole number"):
        draw_shots(scenes(*items), 0, seed=0)


def test_shots_of_masks_are_images():
    masks = [Mask(labels=(1.0, float(n == 0))) for n in range(5)]
    items = [Item(f"m{n}", __file__, target=mask, split="train") for n, mask in enumerate(masks)]
    data = DomainData(items, ("sky", "sea"), load=None, kind="masks")
    drawn = draw_shots(data, 1, seed=0).items
    assert [item.id for item in drawn] == ["m0"]
    assert len(draw_shots(data, 3, seed=0).items) == 3


def test_splits_put_every_class_that_can_be_on_both_sides_and_groups_on_one(tmp_path):
    items = [scene(n, (n % 3,), split="", group=f"g{n // 2}") for n in range(24)]
    data = assign_splits(scenes(*items), seed=0, hashes=FileHashes(tmp_path))
    for split in ("train", "test"):
        assert {label for item in data.split(split) for label in item.target.labels} == {0, 1, 2}
    sides = {}
    for item in data.items:
        sides.setdefault(item.group, set()).add(item.split)
    assert all(len(found) == 1 for found in sides.values())


def test_a_file_of_items_gives_back_the_same_items(write_coco, tmp_path):
    crowd = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    outlined = {"image_id": 2, "category_id": 2, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    data = read_detection(write_coco([crowd, outlined]))
    again = read_items(write_items(tmp_path / "work" / "items.json", data))
    assert again.items == data.items and again.class_names == data.class_names and again.kind == "boxes"
    assert (again.load(again.items[0]) == data.load(data.items[0])).all()
    assert read_detection(tmp_path / "work" / "items.json").items == data.items


def test_a_file_of_items_keeps_masks_and_their_choice(write_masks, tmp_path):
    folder = write_masks({"a": np.array([[0, 1, 2]], np.uint8)})
    (folder / "classes.txt").write_text("sky\nsea\nsand\n")
    data = read_segmentation(folder, class_names=["sand", "sea"])
    again = read_items(write_items(tmp_path / "items.json", data))
    assert again.load_mask(again.items[0]).tolist() == [[255, 1, 0]] and again.items == data.items


def test_made_images_and_masks_are_saved_beside_the_file(tmp_path):
    items = [Item(f"m{n}", __file__, {"index": n}, Mask(labels=(1.0, 1.0)), split="train") for n in range(2)]
    pixels = np.full((2, 3, 3), 0.5, np.float32)
    data = DomainData(items, ("sky", "sea"), lambda item: pixels, kind="masks")
    data.load_mask = lambda item: np.array([[0, 1, 255], [item.decode["index"]] * 3], np.uint8)
    with pytest.raises(DataError, match=r"are generated, not stored"):
        write_items(tmp_path / "items.json", data)
    again = read_items(write_items(tmp_path / "items.json", data, images=tmp_path / "pictures"))
    assert [again.load_mask(item).tolist() for item in again.items] == [
        [[0, 1, 255], [0, 0, 0]],
        [[0, 1, 255], [1, 1, 1]],
    ]
    assert (again.load(again.items[0]) == 128).all() and again.items[0].target.size == (3, 2)


def test_the_fields_of_a_file_of_items_are_flat(tmp_path):
    """As they were before an item had a target: files written then are read, and read then what is written now."""
    outlined = {"boxes": [[0.0, 0.0, 2.0, 1.0]], "box_labels": [1], "segments": [[[0, 0, 2, 0, 2, 1]]], "size": [2, 1]}
    own = {"id": "a", "source": "/images/a.png", "split": "train"}
    entries = {
        "boxes": {**own, **outlined, "ignored": [True], "facts": {"absent": [0]}},
        "masks": {**own, **outlined, "mask": "/masks/a.png", "labels": [0.0, 1.0], "facts": {"only": [1]}},
    }
    boxes = Boxes(((0.0, 0.0, 2.0, 1.0),), (1,), ([[0, 0, 2, 0, 2, 1]],), size=(2, 1))
    mask = Mask(Path("/masks/a.png"), boxes, (0.0, 1.0), (2, 1), (1,))
    targets = {"boxes": replace(boxes, ignored=(True,), facts={"absent": [0]}), "masks": mask}
    for kind, entry in entries.items():
        item = Item("a", Path("/images/a.png"), target=targets[kind], split="train")
        table = MaskReader() if kind == "masks" else None
        data = DomainData([item], ("sky", "sea"), load=None, kind=kind, load_mask=table)
        path = write_items(tmp_path / f"{kind}.json", data)
        assert json.loads(path.read_text())["items"] == [entry]
        assert read_items(path).items == [item]


def test_a_damaged_or_later_file_of_items_is_one_line(write_coco, tmp_path):
    path = write_items(tmp_path / "items.json", read_detection(write_coco([(1, 1, [0, 0, 5, 5])])))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(DataError, match=r"written by another version"):
        read_items(path)
    path.write_text(json.dumps(content)[:-9])
    with pytest.raises(DataError, match=r"not a complete file of items"):
        read_items(path)


def test_one_split_of_a_path_or_a_file(write_coco, tmp_path):
    names = [f"{n}.png" for n in range(10)]
    folder = write_coco([(n, n % 2 + 1, [0, 0, 9, 9]) for n in range(1, 11)], images=names)
    parts = {split: chosen_data("boxes", path=folder, split=split) for split in ("train", "val", "test")}
    ids = [item.id for part in parts.values() for item in part.items]
    assert len(ids) == len(set(ids)) == 10
    assert len(chosen_data("boxes", path=folder, split="train", shots=1).items) == 2
    assert chosen_data("boxes", path=folder, split="train", novel="dog").class_names == ("cat",)
    assert chosen_data("boxes", path=folder, split="test", novel="dog").class_names == ("cat", "dog")
    assert chosen_data("boxes", path=folder, split="all", classes="dog").class_names == ("dog",)
    file = write_items(tmp_path / "items.json", parts["test"])
    assert chosen_data("boxes", items_json=file, split="all").items == parts["test"].items
    with pytest.raises(ConfigError, match=r"either path"):
        chosen_data("boxes")
    with pytest.raises(ConfigError, match=r"give one of train, val, test, all"):
        chosen_data("boxes", path=folder, split="dev")
    with pytest.raises(DataError, match=r"holds boxes, but masks are needed"):
        chosen_data("masks", items_json=file)


def test_given_splits_are_used_as_they_are(write_coco):
    folder = write_coco([(1, 1, [0, 0, 9, 9])], name="instances_train.json", images=("a.png",))
    write_coco([(1, 1, [0, 0, 9, 9])], name="instances_val.json", images=("b.png",))
    assert [item.id for item in chosen_data("boxes", path=folder, split="train").items] == ["images/a.png"]
    assert [item.id for item in chosen_data("boxes", path=folder, split="val").items] == ["images/b.png"]
