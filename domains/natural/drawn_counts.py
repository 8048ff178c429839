"""The sample of regression: pictures of berries on a table and how many there are, drawn by this code.

Colours, sizes and light differ from table to table, and say nothing about the number; the six pictures of a table
belong together.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ...core.contracts import DomainData, Item, Number
from ...core.data import Drawing

DRAWING = Drawing(__file__, "1")
SIDE, PER_TABLE, MOST = 64, 6, 24
COLUMN = "berries"
SPLITS = {"train": 20, "val": 10, "test": 10}
"""Tables."""
NOTE = (
    "Drawn data: the sample's pictures are drawn by vladapt itself; its numbers show that the pipeline works, nothing "
    "about photos."
)


def drawn_counts() -> DomainData:
    """240 pictures of 40 tables, with splits; the same on every machine."""
    items = [
        _item(table, number, split)
        for table, split in enumerate(DomainData.drawn_splits(SPLITS))
        for number in range(PER_TABLE)
    ]
    names = {Number.NAME: (COLUMN,)}
    return DomainData.drawn("drawn berries", NOTE, items, render_item, kind="numbers", number_names=names)


def render_item(item: Item) -> np.ndarray:
    """(64, 64, 3) uint8."""
    return render(int(item.decode["table"]), int(item.decode["number"]))[0]


def _item(table: int, number: int, split: str) -> Item:
    target = Number(float(render(table, number)[1]))
    which = {"table": table, "number": number}
    id_, group = f"table-{table:02}-{number}", f"table {table}"
    return DRAWING.item(id_, table, number, target=target, group=group, split=split, **which)


@lru_cache(maxsize=240)
def render(table: int, number: int) -> tuple[np.ndarray, int]:
    """(64, 64, 3) uint8: berries on a table, none upon another, and how many there are."""
    of_table, rng = np.random.default_rng([11, table]), np.random.default_rng([11, table, number])
    wood, light = of_table.uniform((0.45, 0.3, 0.2), (0.9, 0.8, 0.7)), of_table.uniform(0.8, 1.1)
    y, x = np.mgrid[:SIDE, :SIDE]
    grain = 0.03 * np.sin(x[..., None] * of_table.uniform(0.3, 1.2) + rng.uniform(0, 6))
    colours = wood + grain + rng.normal(0, 0.01, (SIDE, SIDE, 3))
    places: list[tuple[float, float]] = []
    berries = int(rng.integers(0, MOST + 1))
    for _ in range(40 * MOST):
        if len(places) == berries:
            break
        middle = tuple(rng.uniform(4, SIDE - 4, 2))
        if all(np.hypot(middle[0] - other[0], middle[1] - other[1]) > 8 for other in places):
            places.append(middle)
    for row, column in places:
        berry = np.hypot(y - row, x - column) < of_table.uniform(2.5, 3.8)
        colours[berry] = rng.uniform((0.5, 0.0, 0.05), (0.8, 0.15, 0.3))
    return Drawing.pixels(colours * light), len(places)
