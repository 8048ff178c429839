"""One page on a curation: the funnel, examples, what-if, who is in the set, and what no stage could check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, TEXT, PairTable
from ..errors import DataError
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
from .clusters import Cluster, clusters
from .decide import SCORE
from .recipes import DECONTAMINATE
from .record import StageDone, stages_of
from .samples import SIDE, StoredSample, pictured, samples
from .table import open_table, positions_kept
from .tallies import DecisionTally, sizes, thresholds, words_by

Row = Sequence[str | float | int | Cell | None]
DEDUP = "dedup"
SHOWN = 6
"""Pictures per rule."""
WHAT_IF = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


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
        DataError: a stage has not ended.
    """
    stages = stages_of(decisions)
    sections: list[Any] = [_headline(stages), _funnel(stages)]
    sections += [_rules(stage) for stage in stages if stage.rules]
    table = _table(stages[-1])
    if table is None:
        sections += [*_what_if(stages), *_copies(stages)]
    else:
        rows = positions_kept(table, [str(stages[-1].folder)])
        shown = samples(sources, table, [stage.folder for stage in stages], faces)
        sections += [*_examples(stages, shown), *_what_if(stages), *_who(table, rows), *_copies(stages)]
        sections += [*_clusters(table, rows, shown), _associations(table, rows, attributes)]
    sections.append(ListSection("What no stage could check", unchecked(table, stages, faces)))
    kept, pairs = stages[-1].kept, stages[0].pairs
    lead = f"{kept:,} of {pairs:,} pairs are kept, {_percent(kept, pairs)}."
    names = ", ".join(stage.name for stage in stages)
    place = f"{decisions} holds the decisions of the last stage: id, keep, weight, reason and scores of each pair."
    return Report(kind="Curation", title=names, lead=lead, sections=[each for each in sections if each], place=place)


def _table(stage: StageDone) -> PairTable | None:
    """The table of all pairs; None where it was removed, which is allowed when all has been decided."""
    try:
        return open_table(Path(stage.record["table"]))
    except (DataError, KeyError):
        return None


def _headline(stages: Sequence[StageDone]) -> HeadlineSection:
    first, last = stages[0], stages[-1]
    numbers = [
        Number("Pairs", f"{first.pairs:,}"),
        Number("Kept", f"{last.kept:,}", _percent(last.kept, first.pairs), main=True),
        Number("Weight of what is kept", f"{last.record['weight']:,.0f}", "pairs seen per epoch"),
    ]
    return HeadlineSection(numbers)


def _funnel(stages: Sequence[StageDone]) -> TableSection:
    rows: list[Row] = []
    for stage in stages:
        notes = stage.notes
        if stage.rewritten:
            notes.append(f"{stage.rewritten:,} are kept with another text.")
        if stage.without_features:
            notes.append(f"{stage.without_features:,} pairs without features were left out before it.")
        shares = [Cell(_percent(stage.kept, total)) for total in (stage.pairs, stages[0].pairs)]
        rows.append([Cell(stage.name, " ".join(notes)), stage.pairs, stage.kept, *shares])
    return TableSection("What each stage kept", ["Stage", "Pairs", "Kept", "of those", "of all"], rows)


def _rules(stage: StageDone) -> TableSection:
    rows: list[Row] = [[rule, count, Cell(_percent(count, stage.pairs))] for rule, count in stage.rules]
    return TableSection(f"Why {stage.name} dropped pairs", ["Rule", "Pairs", "of those before it"], rows, sub=True)


def _examples(stages: Sequence[StageDone], shown: Sequence[StoredSample]) -> list[PictureSection]:
    groups: list[tuple[str, tuple[str, ...]]] = [("Kept, for comparison", ())]
    groups += [
        (f"Dropped by {stage.name}: {rule}", (stage.name, rule)) for stage in stages for rule in stage.record["dropped"]
    ]
    made = [(title, pictured([each for each in shown if each.dropped_by == why], SHOWN)) for title, why in groups]
    return [PictureSection(title, some, side=SIDE, columns=SHOWN) for title, some in made if some]


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


def _who(table: PairTable, kept: np.ndarray) -> list[Any]:
    sections: list[Any] = []
    if "language" in table:
        sections.append(_before_and_after("Languages", "Language", words_by(table, "language", kept)))
    if "width" in table and "height" in table:
        sections.append(_before_and_after("Shorter side of the images", "Pixels", sizes(table, kept)))
    return sections


def _copies(stages: Sequence[StageDone]) -> list[TableSection]:
    rows: list[Row] = []
    for stage in stages:
        if stage.record.get("stage") == DEDUP:
            gone = stage.pairs - stage.kept
            rows.append([stage.name, gone, Cell(_percent(gone, stage.pairs))])
    return [TableSection("Copies", ["Found by", "Pairs", "of those before it"], rows)] if rows else []


def _before_and_after(title: str, name: str, tallies: Sequence[DecisionTally]) -> TableSection:
    before, after = sum(each.before for each in tallies), sum(each.after for each in tallies)
    rows: list[Row] = [
        [each.name, each.before, Cell(_percent(each.before, before)), each.after, Cell(_percent(each.after, after))]
        for each in tallies
    ]
    return TableSection(title, [name, "Pairs", "", "Kept", ""], rows)


def _clusters(table: PairTable, kept: np.ndarray, shown: Sequence[StoredSample]) -> list[Any]:
    if IMAGE_FEATURES not in table:
        return []
    made: list[Cluster] = clusters(table, kept, shown)
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
        if pictures := pictured(each.examples, SHOWN):
            sections.append(PictureSection(f"Cluster {each.number}", pictures, side=SIDE, columns=SHOWN))
    return sections


def _associations(
    table: PairTable, kept: np.ndarray, attributes: Mapping[str, Sequence[str]] | None
) -> TableSection | None:
    if TEXT not in table:
        return None
    made: list[Association] = associations(table, kept, attributes)
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
        "points; the words with the largest difference before. A difference in brackets lies within chance (95 %, of "
        "all words that were looked at together)."
    )
    return TableSection("Associations in texts", ["Word", "Before", "After"], rows, note)


def _points(difference: tuple[float, float] | None) -> str:
    if difference is None:
        return "–"
    value, margin = difference
    text = f"{100 * value:+.1f}".replace("-", "−")
    return f"({text})" if abs(value) <= margin else text


def unchecked(table: PairTable | None, stages: Sequence[StageDone], faces: bool) -> list[str]:
    """What a reader might think was looked at, and was not."""
    names, kinds = {stage.name for stage in stages}, {stage.record.get("stage") for stage in stages}
    lines = [
        "Nudity, violence and illegal images: no classifier ran, and none replaces the hash lists of the hotlines.",
        "Consent, licences and opt-outs: `vladapt curate remove` takes lists of ids and of hashes.",
    ]
    if DECONTAMINATE not in names:
        lines.append("Test sets: none was given, so copies of test images may be in the set.")
    if table is not None and "language" not in table:
        lines.append("Languages: no column tells them.")
    if DEDUP not in kinds:
        lines.append("Copies of images: no stage looked for them.")
    lines.append("Text that is part of an image: a pair may agree by what is written in it.")
    if not faces:
        lines.append(
            "Pictures on this page are coarse mosaics, so that nobody is known by the face; --faces shows them. Texts "
            "are shown as they are, with the names that they hold."
        )
    return lines


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"
