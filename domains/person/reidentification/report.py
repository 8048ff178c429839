"""What a report and a terminal show of re-identification: scores, cameras, how the training went, and care."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from ....core.contracts import Decoded, Item
from ....core.errors import DataError
from ....core.runs import (
    ExchangeVerdict,
    HeadlineSection,
    Measure,
    Number,
    PictureSection,
    Report,
    TableSection,
    Track,
    plural,
)
from ....core.runs import run_sections as shared
from ....core.tasks import score_table, training_sections
from ..care import care_section
from .scoring import ReidScores

TITLES = {
    "good": "People are found better, by more than chance",
    "open": "Could be chance",
    "bad": "The training made it worse, by more than chance",
}
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


def reid_table(metrics: Mapping[str, Any]) -> Table:
    """Scores before and after, and re-ranked, for a terminal.

    Args:
        metrics: of `flat_scores`.
    """
    known = [when for when in WHEN if metrics.get(when)]
    titles = {**WHEN, "adapted": "features"} if known[:1] == ["adapted"] else WHEN
    title = f"{queries_in_words(metrics)}, {plural(metrics['test_gallery'], 'picture')} in the gallery"
    return score_table(metrics, MEASURES, {when: titles[when] for when in known}, title, caption_of(metrics))


def queries_in_words(metrics: Mapping[str, Any]) -> str:
    """ "18 queries about 6 people"."""
    queries, people = metrics["test_queries"], metrics["test_identities"]
    count = f"{queries:,} {'query' if queries == 1 else 'queries'}"
    return f"{count} about {people:,} {'person' if people == 1 else 'people'}"


def caption_of(metrics: Mapping[str, Any]) -> str:
    """How the numbers of a table came about."""
    words = f"{metrics['protocol']} Compared by {metrics['compared_by']}; in brackets 95 % intervals over people"
    reranking = metrics.get("reranking")
    return f"{words}; re-ranked by k-reciprocal neighbours ({reranking})" if reranking else words


def reid_verdict(metrics: Mapping[str, Any]) -> ExchangeVerdict:
    """Whether the change of Rank-1 and mAP is more than chance."""
    return ExchangeVerdict(metrics.get("exchange") or {}, MEASURES, "people", "map", TITLES)


def reid_report(
    folder: str | Path,
    info: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    log: Sequence[Mapping[str, float]] = (),
    searches: PictureSection | None = None,
) -> Report:
    """The report of a run, or of an evaluation of one.

    Args:
        info: as in run.json, and `model`, the path of the weights.
        metrics: of `flat_scores`.
        history: a row per epoch.
        log: the lines of the training's log.
        searches: of `shown_searches`; None where people are hidden.
    """
    backbone = (info.get("backbone") or {}).get("spec") or "a backbone"
    trained = info.get("adapter") != "zero-shot"
    return Report(
        kind="Report of one re-identification",
        title=f"{backbone}, {'trained' if trained else 'as it is'} on {(info.get('data') or {}).get('name')}",
        lead=lead(metrics),
        created=info.get("created"),
        sections=[
            _headline(metrics),
            reid_verdict(metrics).section() if trained else None,
            shared.warnings(_warnings(metrics, info.get("notes") or ())),
            care_section(),
            shared.notes(info),
            _scores(metrics),
            _rows("By camera", "Camera of the query", metrics.get("by_camera")),
            _rows("By attribute", "The person has", metrics.get("by_attribute")),
            *training_sections(log or history, dict(info.get("losses") or {}), info.get("best_epoch")),
            searches,
            _facts(info),
            shared.skipped(info.get("skipped") or (), "picture"),
            shared.use(_steps(info, str(folder)), "pictures of people") if info.get("model") else None,
            shared.licences(info, unknown="not stated"),
        ],
        versions=info.get("versions") or {},
        place=f"Folder {folder}. Settings and seed are in its run.json.",
    )


def lead(metrics: Mapping[str, Any]) -> str:
    """What came out, in a sentence."""
    before, after = metrics.get("zero_shot"), metrics["adapted"]
    was = f", compared with {before['r1']:.1%} before the training" if before else ""
    return (
        f"Of {queries_in_words(metrics)} that it never saw, "
        f"{after['r1']:.1%} find a picture of the same person first{was}; mAP is {after['map']:.1%}."
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


def _headline(metrics: Mapping[str, Any]) -> HeadlineSection:
    numbers, tracks = [], {}
    known = [when for when in WHEN if metrics.get(when)]
    for key in ("r1", "map"):
        measure = MEASURES[key]
        before = metrics.get("zero_shot")
        was = f"before {measure.text(before[key])}" if before else ""
        numbers.append(Number(measure.name, measure.text(metrics["adapted"][key]), was, main=key == "r1"))
        between = {when: (metrics["intervals"].get(when) or {}).get(key) for when in known}
        role = {"adapted": "adapted"}
        tracks[measure.name] = [
            Track(WHEN[when].capitalize(), metrics[when][key], between[when], role.get(when, "")) for when in known
        ]
    how = "with 95% intervals (bootstrap over people)"
    return HeadlineSection(numbers, tracks, MEASURES["r1"], how, queries_in_words(metrics))


def _warnings(metrics: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    sentences = shared.small_test_set(metrics["test_images"], notes)
    people = metrics["test_identities"]
    if people < shared.FEW_GROUPS:
        sentences.append(f"The queries are about {people} people only: intervals over so few are rough.")
    return sentences


def _scores(metrics: Mapping[str, Any]) -> TableSection:
    before, after, reranked = metrics.get("zero_shot"), metrics["adapted"], metrics.get("reranked")
    intervals = {
        key: tuple((metrics["intervals"].get(when) or {}).get(key) for when in ("zero_shot", "adapted"))
        for key in MEASURES
    }
    rows = shared.score_rows(MEASURES, before, after, intervals)
    header = ["Score", "Before", "After", "Change"] if before else ["Score", "Features"]
    if reranked:
        header.append("Re-ranked")
        rows = [[*row, MEASURES[key].text(reranked[key])] for row, key in zip(rows, MEASURES)]
    return TableSection("Re-identification in numbers", header, rows, f"{caption_of(metrics)}.")


def _rows(title: str, of: str, parts: Mapping[str, Any] | None) -> TableSection | None:
    """Where it fails: a row per camera or attribute of the queries."""
    parts = (parts or {}).get("adapted") or {}
    if len(parts) < 2:
        return None
    rows = [[name or "not known", row["queries"], row["r1"], row["map"], row["minp"]] for name, row in parts.items()]
    header = (of, "Queries", "Rank-1", "mAP", "mINP")
    return TableSection(title, header, rows, "Where it does worse than elsewhere, trust it less.")


def _facts(info: Mapping[str, Any]) -> TableSection | None:
    data, fit = info.get("data") or {}, info.get("fit") or {}
    splits = " · ".join(
        f"{name}: {people:,} {'person' if people == 1 else 'people'}, {plural(images, 'picture')}"
        for name, (people, images) in (data.get("people") or {}).items()
    )
    best = info.get("best_epoch")
    of_task = {
        "Method": [info.get("adapter"), shared.options(fit.get("chosen"))],
        "People": [splits],
        "Started from": shared.backbone_lines(info.get("backbone")),
        "Chosen on": [fit.get("chosen_on"), best and f"the weights of epoch {best} were kept"],
        "Settings": [shared.options(info.get("settings"))],
    }
    return shared.facts("What was trained, and on what", info, of_task)


def _steps(info: Mapping[str, Any], folder: str) -> list[tuple[str, str]]:
    path = shlex.quote(str(info["model"]))
    find = f"vladapt index FOLDER --domain person --out people.index --backbone {path}"
    again = f"vladapt eval {shlex.quote(folder)}"
    return [
        ("Index your own pictures of people with its towers:", find),
        ("Score it again, on its own test people or on others (--data):", again),
    ]
