"""How many of the first results show the finding of the query, finding by finding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.contracts import DomainData, Item, JudgedTowers, Judgement, Place, Record, option
from ....core.errors import ConfigError
from ....core.metrics import Ranking, share_interval
from ....core.runs import Measure, TableSection, plural
from ....core.tasks import DomainPairs
from ..targets import Reported, Viewed

ALL = "all"
NO_FINDING = "No Finding"
IMAGE_TO_TEXT, TEXT_TO_IMAGE, IMAGE_TO_IMAGE = "image_to_text", "text_to_image", "image_to_image"
WORDS = {
    IMAGE_TO_TEXT: "An image finds reports of its finding",
    TEXT_TO_IMAGE: "A report finds images of its finding",
    IMAGE_TO_IMAGE: "An image finds images of its finding",
}
NUMBERS_AT_ONCE = 1 << 24
"""Scores held at a time."""
LATERAL = ("LATERAL", "LL", "L", "LEFT LATERAL", "RL")


@dataclass(frozen=True)
class _Protocol:
    """Which images are queries and candidates.

    Args:
        published: where.
        findings: the categories; none: all of the set, as many as there are.
        candidates, queries: images drawn of each category; 0 candidates: all, of which each is a query too.
        ks: K of precision at K.
        directions: what finds what.
    """

    published: str
    findings: tuple[str, ...]
    candidates: int
    queries: int
    ks: tuple[int, ...]
    directions: tuple[str, ...]


PROTOCOLS = {
    ALL: _Protocol("", (), 0, 0, (5, 10, 50), (IMAGE_TO_TEXT, TEXT_TO_IMAGE, IMAGE_TO_IMAGE)),
    "5x200": _Protocol(
        "GLoRIA (Huang et al., 2021, doi 10.1109/ICCV48922.2021.00391)",
        ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
        200,
        0,
        (5, 10, 100),
        (IMAGE_TO_TEXT,),
    ),
    "8x200": _Protocol(
        "ConVIRT (Zhang et al., 2020, arXiv 2010.00747)",
        ("No Finding", "Atelectasis", "Cardiomegaly", "Edema", "Fracture", "Pleural Effusion", "Pneumonia")
        + ("Pneumothorax",),
        200,
        10,
        (5, 10, 50),
        (IMAGE_TO_IMAGE, TEXT_TO_IMAGE),
    ),
}


@dataclass(frozen=True, eq=False)
class FindingPrecisions(Record):
    """Precision at K by finding.

    Attributes:
        protocol: of `PROTOCOLS`.
        images: finding -> how many candidates have it, and it alone.
        queries: how many queries there are.
        directions: direction -> side ("zero_shot", "adapted") -> "p5", ... the mean over queries, "intervals" of these
            over patients, and "by_finding": finding -> the same numbers.
        guessing: what a random order has.
        short: findings of which the protocol asks for more images than there are.
    """

    key: ClassVar[str] = "finding_precision"

    protocol: str
    images: Mapping[str, int]
    queries: int
    directions: Mapping[str, Mapping[str, Any]]
    guessing: float
    short: Sequence[str] = field(default=())

    @property
    def measures(self) -> dict[str, Measure]:
        """Key -> how it is written."""
        return {f"p{k}": Measure(f"P@{k}", f"share of the first {k}") for k in PROTOCOLS[self.protocol].ks}

    def section(self) -> TableSection:
        rows: list[Any] = []
        for direction, sides in self.directions.items():
            rows.append(WORDS[direction])
            for side, title in (("zero_shot", "Before"), ("adapted", "After")):
                if (of := sides.get(side)) is not None:
                    cells = [each.cell(of[key], of["intervals"].get(key)) for key, each in self.measures.items()]
                    rows.append([f"{title}, all queries", *cells])
            for name, of in sides["adapted"]["by_finding"].items():
                rows.append([name, *(each.cell(of[key]) for key, each in self.measures.items())])
        published = PROTOCOLS[self.protocol].published
        note = (
            f"{f'Drawn as by {published}: ' if published else ''}{plural(sum(self.images.values()), 'candidate')} and "
            f"{self.queries:,} queries, each with one finding alone; a random order has {self.guessing:.1%}. With 95% "
            "intervals over patients."
        )
        header = ("Precision by finding", *(measure.title() for measure in self.measures.values()))
        return TableSection("What the first results show", header, rows, note)

    def note(self) -> str:
        if not self.short:
            return ""
        wanted = PROTOCOLS[self.protocol].candidates
        return f"Precision by finding ({self.protocol}): fewer than {wanted} images of {', '.join(self.short)}."


@dataclass(eq=False, kw_only=True)
class FindingPrecision(Judgement):
    """Of retrieval, by images with exactly one finding: how many of the first K results have it too."""

    record: ClassVar = FindingPrecisions
    judges: ClassVar = JudgedTowers
    place: ClassVar = Place.SCORES
    lasts: ClassVar = True

    precision_of: str = option(
        ALL,
        "images that precision by finding is computed on: all with one finding; 5x200 of GLoRIA or 8x200 of ConVIRT, "
        "drawn",
        choices=tuple(PROTOCOLS),
    )

    def check_read(self, data: DomainData) -> None:
        """Refuse a protocol whose findings the set does not have."""
        if missing := [name for name in PROTOCOLS[self.precision_of].findings if name not in data.class_names]:
            raise ConfigError(
                f"--precision-of {self.precision_of}: this set does not tell {', '.join(missing)}; give one that does, "
                "or all"
            )

    def compute(self, fit: JudgedTowers) -> FindingPrecisions | None:
        """None where fewer than two findings have images of their own.

        Raises:
            ConfigError: as `check_read`.
        """
        protocol, pairs = PROTOCOLS[self.precision_of], fit.data.pairs
        if not isinstance(pairs, DomainPairs):
            return None
        class_names, item_of = pairs.data.class_names, {item.id: item for item in pairs.items}
        self.check_read(pairs.data)
        items = [item_of.get(id_) for id_ in fit.scores_after.ids]
        found = [None if item is None else sole_finding(item, class_names) for item in items]
        rows_of: dict[str, list[int]] = {name: [] for name in protocol.findings or class_names}
        for row, name in enumerate(found):
            if name in rows_of:
                rows_of[name].append(row)
        rows_of = {name: rows for name, rows in rows_of.items() if rows}
        if len(rows_of) < 2:
            return None
        drawn = {name: _drawn(rows, items, protocol, fit.seed) for name, rows in rows_of.items()}
        sides = {"zero_shot": fit.scores_before, "adapted": fit.scores_after}
        of = {side: scores.features for side, scores in sides.items() if scores is not None}
        groups = [item.group or item.id if item is not None else "" for item in items]
        queries = [row for query, _ in drawn.values() for row in query]
        candidates = [row for _, candidate in drawn.values() for row in candidate]
        label = {row: place for place, pair in enumerate(drawn.values()) for some in pair for row in some}
        how = queries, candidates, label, list(drawn), groups
        directions = {
            direction: {side: self._scored(each, direction, *how) for side, each in of.items()}
            for direction in protocol.directions
        }
        images = {name: len(candidate) for name, (_, candidate) in drawn.items()}
        shares = [len(query) * len(some) / len(queries) / len(candidates) for query, some in drawn.values()]
        wanted = protocol.candidates + protocol.queries
        short = [name for name in protocol.findings if len(rows_of.get(name, ())) < wanted]
        return FindingPrecisions(self.precision_of, images, len(queries), directions, sum(shares), short)

    def _scored(
        self,
        features: Any,
        direction: str,
        queries: Sequence[int],
        candidates: Sequence[int],
        label: Mapping[int, int],
        names: Sequence[str],
        groups: Sequence[str],
    ) -> dict[str, Any]:
        """One side of one direction, some queries at a time."""
        ks, answering = PROTOCOLS[self.precision_of].ks, torch.tensor(candidates)
        place_of = {row: place for place, row in enumerate(candidates)}
        parts: dict[int, list[Tensor]] = {k: [] for k in ks}
        labels: list[Tensor] = []
        patients: list[str] = []
        step = max(1, NUMBERS_AT_ONCE // len(candidates))
        for start in range(0, len(queries), step):
            scores, asked, answered = _similarities(
                features, direction, torch.tensor(queries[start : start + step]), answering
            )
            rows = asked.tolist()
            labels.append(torch.tensor([label[row] for row in rows]))
            patients += [groups[row] for row in rows]
            own = None
            if direction == IMAGE_TO_IMAGE and rows[0] in place_of:
                own = torch.tensor([place_of[row] for row in rows])
            gallery = torch.tensor([label[row] for row in answered.tolist()])
            for k, of in Ranking.precision_at(scores, labels[-1], gallery, ks, own).items():
                parts[k].append(of)
        values, query_labels = {f"p{k}": torch.cat(of) for k, of in parts.items()}, torch.cat(labels)
        several = len(set(patients)) > 1
        by_finding = {
            name: {key: float(of[query_labels == place].mean()) for key, of in values.items()}
            for place, name in enumerate(names)
            if bool((query_labels == place).any())
        }
        return {
            **{key: float(of.mean()) for key, of in values.items()},
            "intervals": {key: share_interval(of, patients) for key, of in values.items()} if several else {},
            "by_finding": by_finding,
        }


def sole_finding(item: Item, class_names: Sequence[str]) -> str | None:
    """The one finding that an image is known to have; None where it has several or none, or one is uncertain, or it is
    no frontal view. What a report does not mention is not there; a label that is unknown leaves the image out. That
    nothing is found counts where no finding is."""
    target, view = item.target, ""
    if isinstance(target, Viewed):
        view, target = target.view, target.of
    if view.strip().upper() in LATERAL or target is None:
        return None
    if isinstance(target, Reported) and target.findings:
        values = [0.0 if math.isnan(value) else {1.0: 1.0, -1.0: 0.0}.get(value, math.nan) for value in target.findings]
    else:
        known, places = target.class_label(), range(len(class_names))
        values = list(known) if isinstance(known, tuple) else [float(place == known) for place in places]
    of = {name: value for name, value in zip(class_names, values) if name != NO_FINDING}
    if any(math.isnan(value) for value in of.values()):
        return None
    positive = [name for name, value in of.items() if value == 1]
    if len(positive) == 1:
        return positive[0]
    nothing = dict(zip(class_names, values)).get(NO_FINDING) == 1
    return NO_FINDING if nothing and not positive else None


def _drawn(rows: Sequence[int], items: Sequence[Any], protocol: _Protocol, seed: int) -> tuple[list[int], list[int]]:
    """Queries and candidates of one finding: drawn by their ids, so that other images change nothing."""
    if not protocol.candidates:
        return list(rows), list(rows)
    order = sorted(rows, key=lambda row: items[row].rank(seed))
    queries, rest = order[: protocol.queries], order[protocol.queries :]
    candidates = rest[: protocol.candidates]
    return (queries, candidates) if protocol.queries else (candidates, candidates)


def _similarities(features: Any, direction: str, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, G) scores, and the images that queries and gallery are of; texts are those of their images."""
    images, image_of_text, by_head = features.images.cpu(), features.image_of_text.cpu(), features.scores
    if direction == IMAGE_TO_IMAGE:
        return images[queries] @ images[candidates].T, queries, candidates
    described = torch.isin(image_of_text, candidates if direction == IMAGE_TO_TEXT else queries)
    texts = described.nonzero().flatten()
    if direction == IMAGE_TO_TEXT:
        products = images[queries] @ features.texts.cpu()[texts].T if by_head is None else by_head.of_images(queries)
        return products if by_head is None else products[:, texts], queries, image_of_text[texts]
    products = features.texts.cpu()[texts] @ images[candidates].T if by_head is None else by_head.of_texts(texts)
    return products if by_head is None else products[:, candidates], image_of_text[texts], candidates
