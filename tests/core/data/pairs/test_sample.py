"""The generated pairs: drawn on demand, always the same, with texts that fit them."""

import pickle

import numpy as np
import pytest

from vladapt.core.data.images import decode_bytes
from vladapt.core.data.pairs.sample import negatives_of, sample_pairs, scene_captions
from vladapt.core.data.pairs.scenes import (
    SCENES,
    Scene,
    Things,
    draw_scene,
    scene,
    scene_number,
    with_colours_swapped,
)
from vladapt.core.errors import ConfigError

SHOWN = Scene(Things(2, "red", "circle"), Things(1, "orange", "cross"), "above", "grey")


def test_the_sample_has_every_field_and_split():
    pairs = sample_pairs()
    assert len(pairs) == pairs.total == 240
    assert pairs.fields == {"synthetic", "negative", "short", "negative_image", "label", "several_captions"}
    assert {name: len(pairs.split(name)) for name in pairs.splits} == {"train": 192, "val": 24, "test": 24}
    assert len(pairs.class_names) == 6 and set(pairs.labels) == set(range(6))
    assert "Generated" in pairs.notes[0] and not pairs.skipped


def test_its_captions_say_what_is_drawn():
    assert scene_captions(SHOWN)[0] == "two red circles above an orange cross on a grey background"
    assert "an orange cross below two red circles" in scene_captions(SHOWN)[1]
    assert scene_captions(SHOWN)[3].count(".") == 4


def test_each_negative_differs_from_the_first_caption_in_one_thing():
    assert negatives_of(SHOWN) == [
        "two orange circles above a red cross on a grey background",
        "two red circles below an orange cross on a grey background",
        "three red circles above an orange cross on a grey background",
    ]


def test_every_scene_is_another_and_knows_its_number():
    numbers = range(0, SCENES, 97)
    assert [scene_number(scene(number)) for number in numbers] == list(numbers)
    assert len({scene(number) for number in numbers}) == len(numbers)
    assert all(s.main.colour != s.other.colour and s.main.shape != s.other.shape for s in map(scene, numbers))


def test_no_scene_of_a_sample_comes_twice():
    pairs = sample_pairs(400, seed=3)
    assert len({pair.captions[0] for pair in pairs}) == 400


def test_drawings_are_the_same_each_time_and_differ_by_seed():
    pairs = sample_pairs(4, seed=1)
    assert pairs.load_image(2).shape == (96, 96, 3) and pairs.load_image(2).dtype == np.uint8
    assert np.array_equal(pairs.load_image(2), sample_pairs(4, seed=1).load_image(2))
    number = scene_number(SHOWN)
    assert not np.array_equal(draw_scene(number, 0), draw_scene(number, 1))


def test_bytes_of_a_drawing_decode_to_it():
    pairs = sample_pairs(3)
    assert np.array_equal(decode_bytes(pairs.image_bytes(1), "x"), pairs.load_image(1))


def test_the_main_things_stand_above_in_their_colour():
    pixels = draw_scene(scene_number(SHOWN), 0).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
    assert red[:48].sum() > 300 and red[60:].sum() == 0


def test_the_negative_image_has_the_colours_swapped():
    pairs = sample_pairs(5)
    number = int(pairs[0].source[6:11])
    swapped = draw_scene(scene_number(with_colours_swapped(scene(number))), 0)
    assert np.array_equal(pairs.load_negative_image(0), swapped)
    assert not np.array_equal(swapped, pairs.load_image(0))


def test_a_sample_travels_to_a_worker():
    pairs = pickle.loads(pickle.dumps(sample_pairs(6).split("train")))
    assert pairs[0] == sample_pairs(6)[0] and np.array_equal(pairs.load_image(0), sample_pairs(6).load_image(0))


@pytest.mark.parametrize("n", [0, SCENES + 1])
def test_a_sample_of_no_size_is_refused(n):
    with pytest.raises(ConfigError, match="1 to 64800"):
        sample_pairs(n)
