"""What a report and a terminal show of re-identification: scores, cameras, how the training went, and care."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rich.table import Table

from ....core.contracts import Decoded, Item, RunInfo
from ....core.errors import DataError
from ....core.runs import (
    Measure,
    PictureSection,
    Report,
    TableSection,
    plural,
)
from ....core.runs import run_sections as shared
from ....core.tasks import ExchangeComparison
from ..care import care_section
from .scoring import ReidScores

MEASURES = {
    "r1": Measure("Rank-1", "the nearest picture that counts is of the same person"),
    "r5": Measure("Rank-5", "one of the nearest five is"),
    "r10": Measure("Rank-10", "one of the nearest ten is"),
    "map": Measure("mAP", "all pictures of the person come early"),
    "minp": Measure("mINP", "the last picture of the person comes early, too"),
    "map_trapezoid": Measure("mAP, trapezoid", "as the first code of Market-1501 computes it; it is lower"),
}
WHEN = {"zero_shot": "before", "adapted": "after", "reranked": "re-ranked"}
SHOWN_QUERIES, SHOWN_RESULTS = 6, 4


@dataclass(frozen=True, eq=False)
class ReidComparison(ExchangeComparison):
    """What `flat_scores` gives; its verdict is whether the change of Rank-1 and mAP is more than chance.

    Attributes:
        reranked: the scores after re-ranking; empty without one.
        test_queries, test_gallery, test_identities: numbers of pictures, and of people.
        by_camera, by_attribute: side -> camera or attribute -> "queries", "r1", "map" and "minp".
        protocol, compared_by, reranking: how the numbers came about, in words.
    """

    measures: ClassVar = MEASURES
    unit: ClassVar = "people"
    deciding: ClassVar = "map"
    titles: ClassVar = {
        "good": "People are found better, by more than chance",
        "open": "Could be chance",
        "bad": "The training made it worse, by more than chance",
    }

    reranked: Mapping[str, float] = field(default_factory=dict)
    test_queries: int = 0
    test_gallery: int = 0
    test_identities: int = 0
    by_camera: Mapping[str, Any] = field(default_factory=dict)
    by_attribute: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = ""
    compared_by: str = ""
    reranking: str = ""

    @property
    def sides(self) -> dict[str, str]:
        """Those that have scores -> how they are called; where nothing is trained there is no before and after."""
        names = WHEN if self.zero_shot else {**WHEN, "adapted": "features"}
        return {side: name for side, name in names.items() if self.get(side)}

    @property
    def queries(self) -> str:
        """ "18 queries about 6 people"."""
        count = f"{self.test_queries:,} {'query' if self.test_queries == 1 else 'queries'}"
        return f"{count} about {self.test_identities:,} {'person' if self.test_identities == 1 else 'people'}"

    @property
    def caption(self) -> str:
        """How the numbers of a table came about."""
        words = f"{self.protocol} Compared by {self.compared_by}; in brackets 95 % intervals over people"
        return f"{words}; re-ranked by k-reciprocal neighbours ({self.reranking})" if self.reranking else words

    @property
    def lead(self) -> str:
        """What came out, in a sentence."""
        was = f", compared with {self.zero_shot['r1']:.1%} before the training" if self.zero_shot else ""
        return (
            f"Of {self.queries} that it never saw, {self.adapted['r1']:.1%} find a picture of the same person "
            f"first{was}; mAP is {self.adapted['map']:.1%}."
        )

    def table(self) -> Table:
        """Scores before and after, and re-ranked, for a terminal."""
        title = f"{self.queries}, {plural(self.test_gallery, 'picture')} in the gallery"
        return self.score_table(self.sides, title, self.caption)


def reid_report(
    folder: str | Path,
    info: RunInfo,
    metrics: ReidComparison,
    history: Sequence[Mapping[str, float]],
    log: Sequence[Mapping[str, float]] = (),
    searches: PictureSection | None = None,
) -> Report:
    """The report of a run, or of an evaluation of one.

    Args:
        info: as in run.json, and `model`, the path of the weights.
        history: a row per epoch.
        log: the lines of the training's log.
        searches: of `shown_searches`; None where people are hidden.
    """
    trained = info.adapter != "zero-shot"
    return Report.of_run(
        info,
        kind="Report of one re-identification",
        title=f"{info.backbone.spec}, {'trained' if trained else 'as it is'} on {info.data.name}",
        lead=metrics.lead,
        sections=[
            metrics.headline({key: MEASURES[key] for key in ("r1", "map")}, metrics.sides, "people", metrics.queries),
            metrics.section() if trained else None,
            shared.warnings(_warnings(metrics, info.notes)),
            care_section(),
            shared.notes(info),
            _scores(metrics),
            _rows("By camera", "Camera of the query", metrics.by_camera),
            _rows("By attribute", "The person has", metrics.by_attribute),
            *shared.training_sections(log or history, info.losses, info.best_epoch),
            searches,
            _facts(info),
            shared.skipped(info.skipped, "picture"),
            shared.use(_steps(info, str(folder)), "pictures of people") if info.model else None,
            shared.licences(info, unknown="not stated"),
        ],
        place=f"Folder {folder}. Settings and seed are in its run.json.",
    )


def shown_searches(scores: ReidScores, load: Callable[[Item], Decoded]) -> PictureSection | None:
    """A few queries and what each finds first. Only where people may be shown.

    Args:
        load: decodes a picture.

    Returns:
        None where none of the pictures can be read any more.
    """
    protocol, pictures = scores.protocol, []
    sought, places = protocol.sought, list(protocol.gallery)
    step = max(1, len(scores.ranking) // SHOWN_QUERIES)
    for query in scores.ranking.query[::step][:SHOWN_QUERIES].tolist():
        row, item = torch.tensor([query]), protocol.items[protocol.queries[query]]
        cosines = (scores.unit[places] @ scores.unit[protocol.queries[query]]).masked_fill(sought.left_out(row)[0], -2)
        nearest = cosines.argsort(descending=True, stable=True)[:SHOWN_RESULTS].tolist()
        who = [f"query: {item.target.identity}, camera {item.target.camera or 'not known'}"]
        who += [f"{'the same' if sought.same(row)[0, n] else 'another'}, cosine {cosines[n]:.2f}" for n in nearest]
        try:
            found = [load(each) for each in (item, *(protocol.items[places[n]] for n in nearest))]
        except DataError:
            continue
        pictures += zip(map(_in_8_bits, found), who)
    note = "Each row is a query and the nearest pictures that count, nearest first."
    return PictureSection("What pictures find", pictures, note, 160, 1 + SHOWN_RESULTS) if pictures else None


def _in_8_bits(picture: Decoded) -> Decoded:
    return picture if picture.dtype == np.uint8 else np.rint(255 * picture).astype(np.uint8)


def _warnings(metrics: ReidComparison, notes: Sequence[str]) -> list[str]:
    sentences = shared.small_test_set(metrics.test_images, notes)
    people = metrics.test_identities
    if people < shared.FEW_GROUPS:
        sentences.append(f"The queries are about {people} people only: intervals over so few are rough.")
    return sentences


def _scores(metrics: ReidComparison) -> TableSection:
    between = {key: metrics.between(key) for key in MEASURES}
    rows = shared.score_rows(MEASURES, metrics.zero_shot, metrics.adapted, between)
    header = ["Score", "Before", "After", "Change"] if metrics.zero_shot else ["Score", "Features"]
    if metrics.reranked:
        header.append("Re-ranked")
        rows = [[*row, MEASURES[key].text(metrics.reranked[key])] for row, key in zip(rows, MEASURES)]
    return TableSection("Re-identification in numbers", header, rows, f"{metrics.caption}.")


def _rows(title: str, of: str, sides: Mapping[str, Any]) -> TableSection | None:
    """Where it fails: a row per camera or attribute of the queries."""
    parts = sides.get("adapted") or {}
    if len(parts) < 2:
        return None
    rows = [[name or "not known", row["queries"], row["r1"], row["map"], row["minp"]] for name, row in parts.items()]
    header = (of, "Queries", "Rank-1", "mAP", "mINP")
    return TableSection(title, header, rows, "Where it does worse than elsewhere, trust it less.")


def _facts(info: RunInfo) -> TableSection | None:
    splits = " · ".join(
        f"{name}: {people:,} {'person' if people == 1 else 'people'}, {plural(images, 'picture')}"
        for name, (people, images) in info.data.people.items()
    )
    best = info.best_epoch
    of_task = {
        "Method": [info.adapter, shared.options(info.fit.chosen)],
        "People": [splits],
        "Started from": shared.backbone_lines(info.backbone),
        "Chosen on": [info.fit.chosen_on, best and f"the weights of epoch {best} were kept"],
        "Settings": [shared.options(info.settings)],
    }
    return shared.facts("What was trained, and on what", info, of_task)


def _steps(info: RunInfo, folder: str) -> list[tuple[str, str]]:
    path = shlex.quote(info.model)
    find = f"vladapt index FOLDER --domain person --out people.index --backbone {path}"
    again = f"vladapt eval {shlex.quote(folder)}"
    return [
        ("Index your own pictures of people with its towers:", find),
        ("Score it again, on its own test people or on others (--data):", again),
    ]
