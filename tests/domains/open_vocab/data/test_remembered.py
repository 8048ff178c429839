"""Which classes and boxes a set has for learning new names beside old ones."""

import pytest

from vladapt import ConfigError
from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.domains.open_vocab.data.remembered import spelled_as_in, with_remembered, without_boxes

BOX = (1.0, 2.0, 9.0, 8.0)
NAMES = ("cat", "garden_hose", "emu")


@pytest.fixture
def data():
    """In each split an image with all three and one with a hose alone."""
    items = [
        Item(f"{split}{n}", f"{split}{n}.png", split=split, target=Boxes((BOX,) * len(labels), labels))
        for split in ("train", "val", "test")
        for n, labels in enumerate(((0, 1, 2), (1,)))
    ]
    return DomainData(items, NAMES, load=None, kind="boxes", frequency=("f", "c", "r"))


def labels_of(data):
    return {item.id: item.target.labels for item in data.items}


def test_old_names_that_the_set_has_are_hidden_in_train_and_stay_to_be_tested(data):
    both = with_remembered(data, ["emu"], ["Garden hose", "lorry"])
    assert both.class_names == ("emu", "garden_hose", "lorry") and both.frequency == ("r", "c", "")
    assert labels_of(both) == {
        "train0": (0,),
        "train1": (),  # stays, as an image without the new class
        "val0": (1, 0),
        "val1": (1,),
        "test0": (1, 0),
        "test1": (1,),
    }
    assert both.notes == ["Boxes of names to remember in train, not learned from: 2."]


def test_old_names_that_are_to_be_learned_keep_their_boxes(data):
    both = with_remembered(data, NAMES, ["cat", "lorry"])
    assert both.class_names == (*NAMES, "lorry") and both.notes == []
    assert labels_of(both) == labels_of(data)


def test_which_names_have_no_box_is_told_per_split(data):
    both = with_remembered(data, ["emu"], ["garden hose", "lorry"])
    old = spelled_as_in(both, ["Garden Hose", "lorry", "nothing of it"])
    assert old == ("garden_hose", "lorry")
    assert without_boxes(both, "train", old) == old and without_boxes(both, "test", old) == ("lorry",)


def test_a_name_to_learn_that_the_set_does_not_have_is_refused(data):
    with pytest.raises(ConfigError, match="the data have no 'lorry'"):
        with_remembered(data, ["lorry"], ["cat"])
