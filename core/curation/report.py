"""One page on a curation: the funnel, examples, what-if, who is in the set, and what no stage could check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, TEXT, PairTable
from ..runs.run_sections import Report
from ..runs.sections import (
    Cell,
    CurveGridSection,
    CurveSection,
    HeadlineSection,
    ListSection,
    Number,
    PictureSection,
    TableSection,
)
from ..shards.sources import Source
from .bias import Association, associations
from .clusters import SHOWN_PER_CLUSTER, Cluster, clusters
from .decide import SCORE
from .record import chain_of, record_of
from .samples import Sample, samples
from .table import open_table
from .tallies import Tally, sizes, thresholds, words_by

Row = Sequence[str | float | int | Cell | None]
DEDUP = "dedup"
SHOWN = 6
"""Pictures per rule."""
WHAT_IF = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class StageDone:
    """One stage of a curation.

    Args:
        folder: of its decisions.
        record: what ran.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.record["curator"])


def curation_report(
    decisions: Path,
    sources: Sequence[Source] = (),
    attributes: Mapping[str, Sequence[str]] | None = None,
    faces: bool = False,
) -> Report:
    """The report of a stage and of all that it stands on.

    Args:
        decisions: folder of the last stage.
        sources: where pictures and texts of examples are read from; none for a page without pictures.
        attributes: name -> words that tell of it in a text, for associations; by default women and men.
        faces: whether pictures are shown as they are, and not as coarse mosaics.

    Raises:
        DataError: a stage has not ended, or its table is gone.
    """
    stages = [StageDone(folder, record_of(folder)) for folder in chain_of(decisions)]
    table = open_table(Path(stages[-1].record["table"]))
    shown = samples(sources, table, [stage.folder for stage in stages], faces)
    kept = [each for each in shown if not each.dropped_by]
    sections: list[Any] = [
        _headline(stages),
        _funnel(stages),
        *(_rules(stage) for stage in stages if stage.record["dropped"]),
        *_examples(stages, kept, shown),
        *_what_if(stages),
        *_who(table, stages),
        *_clusters(table, stages, shown),
        _associations(table, stages, attributes),
        ListSection("What no stage could check", unchecked(table, stages, faces)),
    ]
    first, last = stages[0].record, stages[-1].record
    lead = f"{last['kept']:,} of {first['pairs']:,} pairs are kept, {_percent(last['kept'], first['pairs'])}."
    names = ", ".join(stage.name for stage in stages)
    place = f"{decisions} holds the decisions of the last stage: id, keep, weight, reason and scores of each pair."
    return Report(kind="Curation", title=names, lead=lead, sections=[each for each in sections if each], place=place)


def _headline(stages: Sequence[StageDone]) -> HeadlineSection:
    first, last = stages[0].record, stages[-1].record
    numbers = [
        Number("Pairs", f"{first['pairs']:,}"),
        Number("Kept", f"{last['kept']:,}", _percent(last["kept"], first["pairs"]), main=True),
        Number("Weight of what is kept", f"{last['weight']:,.0f}", "pairs seen per epoch"),
    ]
    return HeadlineSection(numbers)


def _funnel(stages: Sequence[StageDone]) -> TableSection:
    total = stages[0].record["pairs"]
    rows = [
        [
            Cell(stage.name, " ".join(stage.record["notes"])),
            stage.record["pairs"],
            stage.record["kept"],
            Cell(_percent(stage.record["kept"], stage.record["pairs"])),
            Cell(_percent(stage.record["kept"], total)),
        ]
        for stage in stages
    ]
    return TableSection("What each stage kept", ["Stage", "Pairs", "Kept", "of those", "of all"], rows)


def _rules(stage: StageDone) -> TableSection:
    dropped = sorted(stage.record["dropped"].items(), key=lambda each: -each[1])
    rows = [[rule, count, Cell(_percent(count, stage.record["pairs"]))] for rule, count in dropped]
    return TableSection(f"Why {stage.name} dropped pairs", ["Rule", "Pairs", "of those before it"], rows, sub=True)


def _examples(stages: Sequence[StageDone], kept: list[Sample], shown: list[Sample]) -> list[PictureSection]:
    sections = []
    if pictured := [each for each in kept if each.image is not None]:
        sections.append(_pictures("Kept, for comparison", pictured))
    for stage in stages:
        for rule in stage.record["dropped"]:
            some = [each for each in shown if each.image is not None and each.dropped_by == (stage.name, rule)]
            if some:
                sections.append(_pictures(f"Dropped by {stage.name}: {rule}", some))
    return sections


def _pictures(title: str, some: Sequence[Sample]) -> PictureSection:
    pictures = [(each.image, each.caption) for each in some[:SHOWN] if each.image is not None]
    return PictureSection(title, pictures, side=210, columns=SHOWN)


def _what_if(stages: Sequence[StageDone]) -> list[Any]:
    """Of every score: which limit would keep which share, told by its quantiles."""
    plots, rows = [], []
    for stage in stages:
        for column, (shares, values) in thresholds(stage.folder).items():
            name = f"{column.removeprefix(SCORE)} of {stage.name}"
            plots.append(CurveSection(name, {name: (values, shares)}, "lowest score kept", "share", unit=False))
            for words, some in (("at least", WHAT_IF), ("at most", [1 - share for share in WHAT_IF])):
                limits = [Cell(f"{np.interp(share, shares[::-1], values[::-1]):.3g}") for share in some]
                rows.append([Cell(name, words), *limits])
    if not plots:
        return []
    header = ["To keep", *(f"{share:.0%}" for share in WHAT_IF)]
    note = "The limit on a score that would keep a share of the pairs before its stage; nothing was computed again."
    return [CurveGridSection("What if", plots, minor=True), TableSection("", header, rows, note, sub=True)]


def _who(table: PairTable, stages: Sequence[StageDone]) -> list[Any]:
    last = stages[-1].folder
    sections: list[Any] = []
    if "language" in table:
        sections.append(_before_and_after("Languages", "Language", words_by(table, "language", last)))
    if "width" in table and "height" in table:
        sections.append(_before_and_after("Shorter side of the images", "Pixels", sizes(table, last)))
    copies = [stage for stage in stages if stage.record.get("stage") == DEDUP]
    if copies:
        rows = []
        for stage in copies:
            gone = stage.record["pairs"] - stage.record["kept"]
            rows.append([stage.name, gone, Cell(_percent(gone, stage.record["pairs"]))])
        sections.append(TableSection("Copies", ["Found by", "Pairs", "of those before it"], rows))
    return sections


def _before_and_after(title: str, name: str, tallies: Sequence[Tally]) -> TableSection:
    before, after = sum(each.before for each in tallies), sum(each.after for each in tallies)
    rows: list[Row] = [
        [each.name, each.before, Cell(_percent(each.before, before)), each.after, Cell(_percent(each.after, after))]
        for each in tallies
    ]
    return TableSection(title, [name, "Pairs", "", "Kept", ""], rows)


def _clusters(table: PairTable, stages: Sequence[StageDone], shown: list[Sample]) -> list[Any]:
    if IMAGE_FEATURES not in table:
        return []
    made: list[Cluster] = clusters(table, stages[-1].folder, shown)
    if not made:
        return []
    rows: list[Row] = [
        [f"Cluster {each.number}", each.before, each.after, Cell(_percent(each.after, each.before))] for each in made
    ]
    sections: list[Any] = [
        TableSection(
            "Clusters of images",
            ["", "Pairs", "Kept", "of those"],
            rows,
            "Groups of alike images by their features, the largest first, on a sample of the pairs.",
        )
    ]
    for each in made:
        pictures = [(sample.image, sample.caption) for sample in each.examples if sample.image is not None]
        if pictures:
            title = f"Cluster {each.number}"
            sections.append(PictureSection(title, pictures[:SHOWN_PER_CLUSTER], side=210, columns=SHOWN_PER_CLUSTER))
    return sections


def _associations(
    table: PairTable, stages: Sequence[StageDone], attributes: Mapping[str, Sequence[str]] | None
) -> TableSection | None:
    if TEXT not in table:
        return None
    made: list[Association] = associations(table, stages[-1].folder, attributes)
    if not made:
        return None
    rows = [
        [
            Cell(each.word, f"{each.texts_before:,} texts before, {each.texts_after:,} kept"),
            Cell(_points(each.before)),
            Cell(_points(each.after)),
        ]
        for each in made
    ]
    first, second = made[0].attributes
    note = (
        f"How much more often a word stands in texts that tell of {first} than in those that tell of {second}, in "
        "points; the words with the largest difference before. A difference in brackets lies within chance (95 %)."
    )
    return TableSection("Associations in texts", ["Word", "Before", "After"], rows, note)


def _points(difference: tuple[float, float] | None) -> str:
    if difference is None:
        return "–"
    value, margin = difference
    text = f"{100 * value:+.1f}".replace("-", "−")
    return f"({text})" if abs(value) <= margin else text


def unchecked(table: PairTable, stages: Sequence[StageDone], faces: bool) -> list[str]:
    """What a reader might think was looked at, and was not."""
    names = {stage.record.get("stage") for stage in stages}
    lines = [
        "Nudity, violence and illegal images: no classifier ran, and none replaces the hash lists of the hotlines.",
        "Consent, licences and opt-outs: `vladapt curate remove` takes lists of ids and of hashes.",
    ]
    if "decontaminate" not in names:
        lines.append("Test sets: none was given, so copies of test images may be in the set.")
    if "language" not in table:
        lines.append("Languages: no column tells them.")
    if not {"near", "exact"} & {stage.name for stage in stages}:
        lines.append("Copies of images: no stage looked for them.")
    lines.append("Text that is part of an image: a pair may agree by what is written in it.")
    if not faces:
        lines.append(
            "Pictures on this page are coarse mosaics, so that nobody is known by the face; --faces shows them."
        )
    return lines


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"
