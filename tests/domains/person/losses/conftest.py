"""A small CLIP to train, and pairs of generated pedestrians and what is said of them."""

from __future__ import annotations

import pytest

from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians


class People:
    """Pictures 32 x 16 of generated people, each with a sentence, in memory.

    Args:
        people: how many, two pictures each.
        wrong: rows that have the sentence of somebody else.
    """

    labelled = True
    texts = frozenset({"caption"})
    columns = {}  # noqa: RUF012

    def __init__(self, people: int, wrong=frozenset()):
        data = drawn_pedestrians(people, 2, size=(32, 16), val=0, test=0, captions=1)
        self.items, self.wrong = data.items, wrong
        self.images = [data.load(item) for item in data.items]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        return self.items[row].id

    def image(self, row: int):
        return self.images[row]

    def text(self, kind: str, row: int, epoch: int) -> str:
        told = (row + len(self) // 2) % len(self) if row in self.wrong else row
        return self.items[told].target.texts[0]

    def label(self, row: int) -> int:
        return row // 2

    def image_id(self, row: int) -> int:
        return row


@pytest.fixture(scope="session")
def people():
    """`people(count, wrong=frozenset())`: pairs of generated people."""
    return People


@pytest.fixture
def fresh_clip(small_clip_spec):
    """A small CLIP of one's own, to train."""
    from vladapt.core.backbones.load import load_backbone

    return load_backbone(small_clip_spec, device="cpu")
