"""Decontamination: what is in a test set, or nearly, is dropped, with the list of which pair is which test image.

Exact and near copies are found as in DataComp: In search of the next generation of multimodal datasets, 2023 (arXiv
2304.14108), which dropped what is near to images of its test sets; hashes and captions are looked at, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, TEXT, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError, DataError
from ._copies import content_digests, digests, equal_rows, plain_sum
from ._held_out import (
    COMPARED,
    HASH,
    NO_LIMIT,
    ROWS_AT_ONCE,
    HeldOutImages,
    HeldOutTable,
    has_features,
    normalised_caption,
    read_tables,
)
from ._kmeans import unit_rows

RULES = {
    "sha256": "bytes of a test image",
    "pixels_sha256": "pixels of a test image",
    HASH: "near copy of a test image by its hash",
    IMAGE_FEATURES: "near copy of a test image by its features",
    "both": "caption of a test image, and like it",
    TEXT: "caption of a test set",
}
"""What is compared -> rule, in the order in which they are asked."""
NOWHERE = -1
MOST_ROWS = 2**24
"""Of test sets together: a score is a float32, which counts no further."""


@dataclass(eq=False, kw_only=True)
class Decontaminate(Curator):
    """A pair is dropped where its image has the SHA-256 digest of a test image, of bytes or of pixels; a perceptual
    hash within `distance` bits of a test image's; features whose cosine with a test image's is at least `cosine`; or a
    caption that is equal to one of a test set, case and punctuation apart, and features whose cosine with an image of
    that caption is at least `caption_cosine`: ids of a table that are those of features tell which images these are.
    Equal captions alone are listed and not dropped, unless `captions` says so: many images are "a dog".

    Cosines belong to an encoder. By default both limits are learned from how alike different test images are to it
    (`HeldOutImages.limits`), and a note says which they are, or that none can tell a copy.

    Which test image a pair is, is kept: the score `test_row` counts the rows of features, then those of tables, whose
    ids, places, and place of each row are in the survey (`test_ids`, `test_places`, `test_set_of`); `matches` lists
    them.

    Where the encoder finds all images alike, some unrelated ones go too: up to 2.6 % were measured. With fewer than
    40 test images both limits are at least 0.95 and 0.85. If no cosine below 0.9999 tells a copy, features alone
    drop nothing.

    Not detected: crops that the encoder sees as another image, translated captions, and test sets that are not
    given. Beyond 10,000 test images a pair is compared with those in the 32 nearest cells of an index.

    A hash (`phash`) is a whole number or 16 hexadecimal digits, of the program that made the column of the pairs.

    Example:
        >>> build_curator("decontaminate", tests="imagenet-val.safetensors,coco-test").decide_all(pairs).keep.sum()
        990
    """

    stage: ClassVar[str] = "decontaminate"

    tests: tuple[str, ...] = option(
        (),
        "the test sets: files or folders of image features, by the encoder of the pairs, and tables (CSV, JSON lines, "
        f"Parquet) with an id and columns among {', '.join(COMPARED)}",
    )
    cosine: float | None = option(
        None,
        "least cosine with a test image of an image that is dropped; by default learned from the test images",
        above=0.0,
        high=1.0,
    )
    distance: int = option(4, "bits in which the hash of an image differs from a test image's at most", low=0, high=16)
    caption_cosine: float | None = option(
        None, "the same of a pair that has the caption of that image; by default learned, too", low=-1.0, high=1.0
    )
    captions: bool = option(False, "whether a caption of a test set is enough to drop a pair")

    def __post_init__(self):
        super().__post_init__()
        if not self.tests:
            raise ConfigError("curator 'decontaminate': no test sets; give tests=PATH,PATH")

    @property
    def reads(self) -> tuple[str, ...]:
        features = (IMAGE_FEATURES,) if self._features else ()
        return (*features, *(name for name in COMPARED if any(name in each.columns for each in self._tables)))

    @cached_property
    def _features(self) -> tuple[str, ...]:
        return tuple(place for place in self.tests if has_features(place))

    @cached_property
    def _tables(self) -> list[HeldOutTable]:
        return read_tables(place for place in self.tests if place not in self._features)

    def check(self, columns: Collection[str]) -> None:
        _ = self._features, self._tables

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        whole: dict[str, np.ndarray] = {}
        rows: dict[str, np.ndarray] = {}
        places = (*self._features, *(each.place for each in self._tables))
        notes: list[str] = []
        ids = [id_ for each in self._tables for id_ in each.ids]
        set_of = np.repeat(np.arange(len(self._features), len(places)), [len(each.ids) for each in self._tables])
        first = 0  # row of the tables among all
        if self._features:
            images = HeldOutImages.read(self._features, pairs)
            first, ids, set_of = len(images.ids), [*images.ids, *ids], np.concatenate([images.set_of, set_of])
            cosine, like = images.limits()
            cosine, like = self.cosine or cosine, like if self.caption_cosine is None else self.caption_cosine
            rows["cosine"], rows[f"row.{IMAGE_FEATURES}"] = images.nearest(pairs, progress)
            whole["limits"] = np.array([cosine, like], np.float32)
            notes += _of_limits(cosine, like)
        if len(ids) > MOST_ROWS:
            raise DataError(
                f"tests: {len(ids):,} images and rows of tables, of which {MOST_ROWS:,} can be numbered; give some of "
                "the test sets now, and run the stage again with the others"
            )
        for name in self.reads:
            if name != IMAGE_FEATURES:
                rows[f"row.{name}"] = self._same(pairs, name, first)
        if self._features and f"row.{TEXT}" in rows:
            images_of = self._images_of_captions(images)
            rows["caption_cosine"], rows["row.both"] = _with_caption(
                pairs, rows[f"row.{TEXT}"] - first, images, images_of
            )
            if not images_of:
                notes.append("No caption has the id of a test image, so captions are compared without images.")
        whole |= {"test_ids": np.array(ids, str), "test_set_of": set_of, "test_places": np.array(places, str)}
        survey = Survey(whole, rows)
        return Survey(whole, rows, (*notes, *self._told(self.decide(pairs, survey), whole)))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        at = {name: survey.rows[f"row.{name}"] for name in RULES if f"row.{name}" in survey.rows}
        fails = {name: at[name] != NOWHERE for name in at if name not in (IMAGE_FEATURES, "both", TEXT)}
        scores: dict[str, np.ndarray] = {}
        if IMAGE_FEATURES in at:
            cosine, like = survey.whole["limits"]
            scores["test_cosine"] = survey.rows["cosine"]
            fails[IMAGE_FEATURES] = survey.rows["cosine"] >= cosine
        if TEXT in at:
            scores["test_caption"] = (at[TEXT] != NOWHERE).astype(np.float32)
            if IMAGE_FEATURES in at:
                fails["both"] = (at["both"] != NOWHERE) & (survey.rows["caption_cosine"] >= like)
            if self.captions:
                fails[TEXT] = at[TEXT] != NOWHERE
        fails = {name: fails[name] for name in RULES if name in fails} or {TEXT: np.zeros(len(pairs), bool)}
        row = at.get(IMAGE_FEATURES, np.full(len(pairs), NOWHERE))  # of what stays: the nearest
        for name in (*([TEXT] if TEXT in at else []), *reversed(fails)):
            row = np.where(fails.get(name, at[name] != NOWHERE), at[name], row) if name in at else row
        scores["test_row"] = row.astype(np.float32)
        return Decision.of({RULES[name]: flags for name, flags in fails.items()}, scores=scores)

    def _same(self, pairs: PairTable, name: str, first: int) -> np.ndarray:
        """(N,) int64 row of the first test with the same digest or caption, or the nearest hash; else `NOWHERE`.

        Args:
            first: row of the tables among all.
        """
        values = [each.columns.get(name) or [0 if name == HASH else ""] * len(each.ids) for each in self._tables]
        theirs = [value for column in values for value in column]
        if name == HASH:
            at = nearest_hashes(pairs.numbers(HASH).astype(np.uint64), np.array(theirs, np.uint64), self.distance)
        elif name == TEXT:
            at = equal_to(
                content_digests(pairs, TEXT, normalised_caption), digests([normalised_caption(text) for text in theirs])
            )
        else:
            at = equal_to(content_digests(pairs, name, plain_sum), digests([plain_sum(digest) for digest in theirs]))
        return np.where(at == NOWHERE, NOWHERE, at + first)

    def _images_of_captions(self, images: HeldOutImages) -> dict[int, list[int]]:
        """First row of the tables with a caption -> rows of the images that have it, by the ids of all such rows."""
        by_id = images.rows_by_id()
        first_with: dict[str, int] = {}
        rows: dict[int, list[int]] = {}
        number = 0
        for table in self._tables:
            texts = table.columns.get(TEXT) or [""] * len(table.ids)
            for text, id_, own in zip(texts, table.ids, table.named):
                first = first_with.setdefault(caption, number) if (caption := normalised_caption(text)) else NOWHERE
                if first != NOWHERE and own and id_ in by_id:
                    rows.setdefault(first, []).extend(by_id[id_])
                number += 1
        return rows

    def _told(self, decision: Decision, whole: dict[str, np.ndarray]) -> list[str]:
        """How many pairs are dropped for each test set, and how many captions are listed."""
        rows = decision.scores["test_row"][~decision.keep].astype(np.int64)
        counts = np.bincount(whole["test_set_of"][rows], minlength=len(whole["test_places"]))
        lines = [f"{place}: {count:,} pairs are dropped." for place, count in zip(whole["test_places"], counts)]
        if "test_caption" in decision.scores:
            kept = int((decision.keep & (decision.scores["test_caption"] > 0)).sum())
            lines.append(f"{kept:,} pairs that stay have a caption of a test set, without its image.")
        return lines


def _of_limits(cosine: float, like: float) -> Iterator[str]:
    """What a report says of them."""
    if cosine != NO_LIMIT:
        yield f"A near copy has a cosine of {cosine:.4g} or more with a test image."
    else:
        yield (
            "Different test images are too alike to this encoder for a cosine to tell copies, so features alone drop "
            "nothing; hashes and digests decide. Give cosine=NUMBER, or features of another encoder."
        )
    if like != NO_LIMIT:
        yield f"With the caption of a test image, a cosine of {like:.4g} with that image is enough."
    if min(cosine, like) != NO_LIMIT:
        yield "Cosines hold for this encoder alone."


def _with_caption(
    pairs: PairTable, first: np.ndarray, images: HeldOutImages, images_of: dict[int, list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float32 cosine of each pair with the nearest image of its caption, and (N,) row of that; -2 and `NOWHERE`
    where none is known.

    Args:
        first: (N,) first row of the tables with the caption of each pair; negative where there is none.
        images_of: first row with a caption -> rows of images.
    """
    cosines, nearest = np.full(len(pairs), -2, np.float32), np.full(len(pairs), NOWHERE)
    has_images = np.flatnonzero(np.isin(first, list(images_of)))
    for start in range(0, len(has_images), ROWS_AT_ONCE):
        some = has_images[start : start + ROWS_AT_ONCE]
        units = unit_rows(pairs, IMAGE_FEATURES, some)
        order = np.argsort(first[some], kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(first[some[order]])) + 1):
            rows = np.array(images_of[int(first[some[same[0]]])])
            products = units[same] @ images.features[rows].T
            cosines[some[same]], nearest[some[same]] = products.max(axis=1), rows[products.argmax(axis=1)]
    return cosines, nearest


def equal_to(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) int64 first row of the others that equals each row; `NOWHERE` where none does, and for rows of zeros.

    Args:
        rows: (N, K) uint64.
        others: (M, K) uint64.
    """
    numbers = equal_rows(np.concatenate([others, rows]))
    first = np.full(numbers.max(initial=-1) + 2, NOWHERE)  # the last, of no number
    first[numbers[: len(others)][::-1]] = np.arange(len(others))[::-1]
    first[-1] = NOWHERE
    return first[numbers[len(others) :]]


def nearest_hashes(hashes: np.ndarray, others: np.ndarray, distance: int) -> np.ndarray:
    """(N,) int64 row of the nearest of the others within so many bits, of equally near ones the first; `NOWHERE` where
    there is none, and for hashes of 0.

    Args:
        hashes: (N,) uint64.
        others: (M,) uint64.
    """
    from ..data import hashes_within

    different, number = np.unique(hashes, return_inverse=True)
    theirs, first = np.unique(others, return_index=True)
    first, theirs = first[theirs != 0], theirs[theirs != 0]
    best = np.full((len(different), 2), (65, NOWHERE))
    for rows, columns, apart in hashes_within(different, theirs, distance):
        order = np.lexsort((first[columns], apart, rows))
        rows, at = np.unique(rows[order], return_index=True)
        best[rows] = np.column_stack([apart[order][at], first[columns[order][at]]])
    best[different == 0] = (65, NOWHERE)
    return best[number, 1]


def matches(pairs: PairTable, survey: Survey, decision: Decision) -> Iterator[tuple[str, str, str, str]]:
    """(id of the pair, test set, id of the test, why) of each pair that is dropped, and of those that stay though their
    caption is one of a test set.

    Args:
        pairs, survey, decision: of one block, or of all.
    """
    captions = decision.scores.get("test_caption", np.zeros(len(pairs)))
    listed = np.flatnonzero(~decision.keep | (captions > 0))
    tests = decision.scores["test_row"][listed].astype(np.int64)
    places = survey.whole["test_places"][survey.whole["test_set_of"][tests]]
    words = ("listed: " + RULES[TEXT], *decision.rules)
    for name, place, test, reason in zip(
        pairs.names(listed), places, survey.whole["test_ids"][tests], decision.reason[listed]
    ):
        yield name, str(place), str(test), words[reason]
