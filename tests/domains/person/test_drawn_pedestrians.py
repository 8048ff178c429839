"""Generated pedestrians are the same everywhere, and their sentences and attributes say what is drawn."""

from collections import defaultdict
from datetime import datetime

import numpy as np
import pytest

from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.pedestrian_outfits import ATTRIBUTES, NONE, VALUES, WORDS, outfit, outfit_sentences


@pytest.fixture(scope="module")
def people():
    return drawn_pedestrians(identities=60, images_per_identity=3, cameras=3, seed=4, size=(64, 32))


def test_same_seed_same_pictures_and_sentences(people):
    again = drawn_pedestrians(identities=60, images_per_identity=3, cameras=3, seed=4, size=(64, 32))
    other = drawn_pedestrians(identities=60, images_per_identity=3, cameras=3, seed=5, size=(64, 32))
    for mine, same, different in list(zip(people.items, again.items, other.items))[::40]:
        picture = people.load(mine)
        assert picture.shape == (64, 32, 3) and picture.dtype == np.uint8
        assert (picture == again.load(same)).all() and mine == same
        assert (picture != other.load(different)).any() and mine.target.texts != different.target.texts


def test_nobody_is_in_two_splits_and_shares_are_as_asked(people):
    splits = defaultdict(set)
    for item in people.items:
        assert item.group == item.target.identity
        splits[item.split].add(item.target.identity)
    assert {name: len(names) for name, names in splits.items()} == {"train": 39, "val": 6, "test": 15}
    assert len(set.union(*splits.values())) == 60
    asked = drawn_pedestrians(identities=9, val=2, test=4)
    assert len({item.group for item in asked.split("test")}) == 4 and len({i.group for i in asked.split("val")}) == 2


def test_each_picture_is_of_another_camera_in_turn_at_another_time(people):
    first = [item.target for item in people.items[:3]]
    assert len({target.camera for target in first}) == 3
    assert len({datetime.fromisoformat(item.target.time) for item in people.items}) == len(people.items)
    assert (people.load(people.items[0]) != people.load(people.items[1])).any()


def test_sentences_name_what_is_worn_in_varied_words(people):
    texts = [text for item in people.items for text in item.target.texts]
    assert len(set(texts)) > 0.99 * len(texts)
    for item in people.items[::7]:
        worn = outfit(4, item.decode["identity"])
        for text in item.target.texts:
            assert text[0].isupper() and text.endswith(".") and "  " not in text
            for value in (worn["upper colour"], worn["lower"], worn["lower colour"]):
                assert any(word in text.lower() for word in WORDS.get(value, (value,))), (value, text)


def test_what_is_not_there_is_never_said():
    worn = {**outfit(0, 0), "bag": NONE, "bag colour": NONE, "hat": NONE, "hat colour": NONE, "scarf colour": NONE}
    said = " ".join(outfit_sentences(worn, np.random.default_rng(0), 200))
    for name in ("bag", "rucksack", "suitcase", "scarf", "cap ", " hat", NONE):
        assert name not in said
    for word in ("woman", "man ", "girl", "boy", "young", "old "):
        assert word not in said


def test_attributes_are_those_of_the_outfit(people):
    assert people.class_names == tuple(ATTRIBUTES)
    for item in people.items[::11]:
        worn = outfit(4, item.decode["identity"])
        assert all(worn[name] in values or worn[name] == NONE for name, values in VALUES.items())
        shown = {name for name, value in zip(people.class_names, item.target.attributes) if value}
        assert shown == {name for name, (attribute, value) in ATTRIBUTES.items() if worn[attribute] == value}


def test_some_people_differ_in_little():
    worn = [outfit(0, identity) for identity in range(200)]
    differing = [sum(a[name] != b[name] for name in VALUES) for a, b in zip(worn[::2], worn[1::2])]
    twins = [count for count in differing if count <= 5]
    assert 10 < len(twins) < 45 and all(count >= 3 for count in twins)


def test_the_drawing_shows_the_outfit():
    """The upper garment's colour covers the middle of the picture, whatever the camera."""
    data = drawn_pedestrians(identities=60, images_per_identity=2, cameras=4, seed=1, size=(64, 32))
    reds = {"red": [], "blue": []}
    for item in data.items:
        worn = outfit(1, item.decode["identity"])
        if worn["upper colour"] in reds and worn["pattern"] == "plain":
            middle = data.load(item)[20:30, 12:20].astype(float).mean(axis=(0, 1))
            reds[worn["upper colour"]].append(middle[0] - middle[2])
    assert all(reds.values()) and np.mean(reds["red"]) > 40 > -20 > np.mean(reds["blue"])
