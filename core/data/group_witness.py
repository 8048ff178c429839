"""The pixels' witness: are the members of a group nearer to one another than other images of their class?

Images are described by their thumbnails alone (`thumbnails.py`), so that the answer is the same for every backbone:
shape (low frequencies of the grey levels), texture (energy by band of frequencies), contrast and colour. Of these each
class's mean is taken away, and the groups of its images are permuted (a permutation test of the mean similarity within
groups, as in Mielke and Berry, "Permutation Methods: A Distance Function Approach", 2007). With as many candidates as
there are, p values are adjusted by Holm's method.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from ..contracts.items import DomainData, Item
from ..metrics.significance import holm
from ..runtime.files import write_cached
from .file_hashes import FileHashes
from .thumbnails import Pictures, Thumbnails
from .verify import contents_of, make_thumbnails

VERSION = 1
"""Of the answers that are kept: another number has all asked anew."""
MOST_IMAGES, MOST_OF_GROUP = 500, 6
"""Images that a candidate is judged by, and of one group among them."""
PERMUTATIONS, SEED = 999, 20_000
BLOCK = 2**17
"""Pairs of images that are looked at together, of several permutations."""
SHAPE, BANDS = 12, (2, 4, 6, 9, 13, 18, 25, 45)
"""Frequencies in each direction, and the radii between which energies are taken."""


def witnessed(data: DomainData, candidates: Sequence[Sequence[str | None]], hashes: FileHashes) -> list[float]:
    """Of each candidate the p value of its groups, adjusted for their number.

    What was found is kept beside the thumbnails, under a digest of the images, their classes and their groups.

    Args:
        data: N items with labels; thumbnails are made of those that have none and are looked at.
        candidates: of each the N groups, None for an image without one.

    Raises:
        CacheError: the cache cannot be written.
    """
    looked_at = [_sample(data.items, groups) for groups in candidates]
    places = sorted({place for some in looked_at for place in some})
    items = [data.items[place] for place in places]
    with ThreadPoolExecutor(1) as pool:
        contents = [each if isinstance(each, str) else "" for each in contents_of(items, hashes, pool)]
    content_of = dict(zip(places, contents, strict=True))
    kept = [_Rows(data, groups, some, content_of) for groups, some in zip(candidates, looked_at, strict=True)]
    thumbnails = Thumbnails(hashes.root)
    digest = hashlib.sha256(f"groups {VERSION}\n".encode() + "\n".join(rows.text for rows in kept).encode())
    file = thumbnails.root / "groups" / f"{digest.hexdigest()}.json"
    p_values = _kept(file, len(kept))
    if p_values is None:
        if thumbnails.missing(set(contents) - {""}):
            make_thumbnails(data.with_items(items), hashes, thumbnails, 1)
        described = _described(sorted(set(contents) - {""}), thumbnails)
        p_values = [rows.p_value(described) for rows in kept]
        write_cached(file, json.dumps(p_values))
    return holm(p_values)


def _sample(items: Sequence[Item], groups: Sequence[str | None]) -> list[int]:
    """Positions of the images that a candidate is judged by: whole groups as far as they are small, in an order of
    their names that no order of files changes."""
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(place)
    several = [
        sorted(some, key=lambda place: items[place].rank(SEED))[:MOST_OF_GROUP]
        for some in members.values()
        if len(some) > 1
    ]
    several.sort(key=lambda some: items[some[0]].rank(SEED))
    chosen: list[int] = []
    for some in several:
        if len(chosen) + len(some) <= MOST_IMAGES:
            chosen += some
    return sorted(chosen, key=lambda place: items[place].id)


class _Rows:
    """The images by which one candidate is judged."""

    def __init__(
        self, data: DomainData, groups: Sequence[str | None], places: Sequence[int], content_of: dict[int, str]
    ):
        self.contents = [content_of[place] for place in places]
        classes = [repr(data.items[place].classes()) for place in places]
        self.classes, self.groups = _numbered(classes), _numbered([groups[place] for place in places])
        self.text = json.dumps([self.contents, self.classes.tolist(), self.groups.tolist()])

    def p_value(self, described: dict[str, np.ndarray]) -> float:
        """Of the permutation test; 1 where there is nothing to compare."""
        seen = np.array([content in described for content in self.contents], dtype=bool)
        if seen.sum() < 4:
            return 1.0
        rows = np.stack([described[content] for content in self.contents if content in described])  # (n, D)
        classes, groups = self.classes[seen], self.groups[seen]
        return nearness_test(_centred(rows, classes), classes, groups)


def _numbered(values: Sequence[str | None]) -> np.ndarray:
    """(n,) each value as its number, in the order in which they come: what they are called has no effect."""
    number = {value: n for n, value in enumerate(dict.fromkeys(values))}
    return np.array([number[value] for value in values], dtype=np.int64)


def _centred(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n, D) without the mean of each class, each number in its standard deviation within classes."""
    rows = rows.copy()
    for label in np.unique(classes):
        rows[classes == label] -= rows[classes == label].mean(axis=0)
    spread = rows.std(axis=0)
    return rows[:, spread > 1e-6] / spread[spread > 1e-6]


def nearness_test(rows: np.ndarray, classes: np.ndarray, groups: np.ndarray) -> float:
    """p value of the mean similarity of members of a group among all ways to share the images of each class out.

    Args:
        rows: (n, D) centred by class.
        classes, groups: (n,) numbers.
    """
    order = np.argsort(groups, kind="stable")
    rows, classes, groups = rows[order].astype(np.float64), classes[order], groups[order]
    products = rows @ rows.T  # (n, n)
    np.fill_diagonal(products, 0)
    of_class = [np.flatnonzero(classes == label) for label in np.unique(classes)]
    draw, taken = np.random.default_rng(SEED), np.arange(len(rows))
    shared = np.tile(groups, (1 + PERMUTATIONS, 1))  # (P, n) the group of each image, first as they are
    for some_way in shared[1:]:
        for some in of_class:
            taken[some] = draw.permutation(some)
        some_way[taken] = groups
    # The sum over pairs of a group, twice; the number of pairs is always the same.
    at_once = max(1, BLOCK // products.size)
    blocks = (shared[first : first + at_once] for first in range(0, len(shared), at_once))
    same = ((some[:, :, None] == some[:, None]).reshape(len(some), -1) for some in blocks)  # (p, n * n)
    similarity = np.concatenate([pairs @ products.ravel() for pairs in same])  # (P,)
    as_high = similarity >= similarity[0] - 1e-9 * abs(similarity[0])
    return float(as_high.mean())


def _described(keys: Sequence[str], thumbnails: Thumbnails) -> dict[str, np.ndarray]:
    """Content key -> (D,) what its thumbnail shows."""
    described: dict[str, np.ndarray] = {}
    for found, pictures in thumbnails.find(keys):
        described.update(zip(found, describe(pictures), strict=True))
    return described


def describe(pictures: Pictures) -> np.ndarray:
    """(N, 160) float32: shape, texture, contrast and colour."""
    from scipy.fft import dctn  # SciPy is slow to import, and kept answers do without

    count = len(pictures)
    grey = dctn(pictures.grey.astype(np.float32), axes=(1, 2), norm="ortho")  # (N, 32, 32)
    colour = dctn(pictures.colour.astype(np.float32), axes=(1, 2), norm="ortho")  # (N, 8, 8, 2)
    radius = np.hypot(*np.mgrid[: grey.shape[1], : grey.shape[2]])
    energies = [(grey[:, (radius >= low) & (radius < high)] ** 2).mean(axis=1) for low, high in pairwise(BANDS)]
    contrast = pictures.grey.std(axis=(1, 2))
    parts = [
        grey[:, :SHAPE, :SHAPE].reshape(count, -1),
        np.log1p(np.stack([*energies, contrast], axis=1)),
        colour[:, :2, :2].reshape(count, -1),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _kept(file, count: int) -> list[float] | None:
    """p values as they were kept; None where they are not, or damaged."""
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(values, list) and len(values) == count
    if whole and all(isinstance(value, float) and math.isfinite(value) and 0 < value <= 1 for value in values):
        return values
    return None
