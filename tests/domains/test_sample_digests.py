"""Samples are drawn as ever, to the last bit: figures of the documentation and stored features hang on them."""

import hashlib

import numpy as np
import pytest

from vladapt import load_domain
from vladapt.domains.medical.drawn_volumes import drawn_volume
from vladapt.domains.medical.slides.drawn import drawn_slide
from vladapt.domains.open_vocab import shapes
from vladapt.domains.remote_sensing.changes.drawn import drawn_pair
from vladapt.domains.remote_sensing.drawn_heights import drawn_canopy

ON_DEMAND = {
    "medical classification": "6065e8051d3017dd",
    "medical retrieval": "4b783001026915a9",
    "medical phrase-grounding": "f55be21b036eeb3f",
    "natural classification": "635440cd71f4725b",
    "natural regression": "8f97ddd8768b6aa0",
    "person person-search": "b27795961f4f8fff",
    "remote-sensing classification": "eb9f409c77bcff85",
    "remote-sensing retrieval": "016abccb7e15c214",
    "remote-sensing regression": "cdffc85e9802ce01",
    "video classification": "fb473dd8c97f44ec",
    "video retrieval": "7f59e4a7672469be",
    "video moments": "ca7769b3972278ec",
}
IN_FOLDERS = {
    "volume": "91bb55214a0ab3a3",
    "slide": "1a099e390efad14e",
    "shapes": "ac88788c4ae13ae7",
    "dates": "fbee52b09f131d58",
    "canopy": "c4288a0d466208c3",
}
FEW = 4
"""Images of each set whose pixels are compared."""


@pytest.mark.parametrize("sample", ON_DEMAND)
def test_a_sample_drawn_on_demand_has_its_items_and_pixels(sample):
    name, task = sample.split()
    data = load_domain(name).sample(task)
    items = "".join(f"{each.id} {each.decode} {each.target} {each.group} {each.split}\n" for each in data.items)
    images = (np.asarray(data.load(each)) for each in data.items[:: len(data.items) // FEW])
    assert _digest(items, *images) == ON_DEMAND[sample]


@pytest.mark.parametrize("sample", IN_FOLDERS)
def test_a_sample_drawn_into_a_folder_has_its_pixels(sample):
    if sample == "slide":
        pytest.importorskip("cv2", reason="extra slides is not installed")
        made = [drawn_slide(1)]
    else:
        made = {
            "volume": [drawn_volume(number) for number in range(FEW)],
            "shapes": [_shapes(number) for number in range(FEW)],
            "dates": [drawn_pair(number, 1.0) for number in range(FEW)],
            "canopy": [drawn_canopy(64, [1, 0, number]) for number in range(FEW)],
        }[sample]
    assert _digest(*(part for each in made for part in each)) == IN_FOLDERS[sample]


def _shapes(number):
    picture, things = shapes.draw_shapes(number)
    return [picture, *(part for thing in things for part in thing)]


def _digest(*parts: object) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return whole.hexdigest()[:16]
