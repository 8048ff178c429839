"""What a report and a terminal show of phrase grounding: scores beside those of guessing, by finding, and maps."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.table import Table

from ....core.contracts import Decoded, Item, RunInfo
from ....core.errors import DataError
from ....core.runs import Measure, PictureSection, Report, TableSection, plural
from ....core.runs import run_sections as shared
from ....core.tasks import GroundingComparison
from .predictions import heat_picture
from .scoring import MIOU, POINTING, SHARES, GroundingScores, JudgedPhrase, Judging

MEASURES = {
    POINTING: Measure("Pointing game", "the highest place of the map lies in a box"),
    MIOU: Measure("mIoU", "overlap of map and boxes, mean over thresholds 0.1 to 0.5"),
    "cnr": Measure("CNR", "contrast to noise of each box, mean over boxes", "number"),
    "absolute_cnr": Measure("|CNR|", "the same without its sign, as papers report it", "number"),
    "union_cnr": Measure("CNR of the union", "of all boxes of a phrase as one region", "number"),
}
MEANS = "Means over findings of the means over their phrases. Guessing: a map that says nothing."
SHOWN = 8
"""Maps that are shown, half of them the worst."""


@dataclass(frozen=True, eq=False)
class PhraseComparison(GroundingComparison):
    """What `flat_scores` gives.

    Attributes:
        findings: finding -> its scores.
        test_phrases: phrases that were looked for; `test_groups` are the patients.
        denied: how many of them deny their finding.
    """

    measures: ClassVar = MEASURES
    unit: ClassVar = "patients"
    deciding: ClassVar = POINTING
    reached: ClassVar = "The map is highest inside a box for {}"
    titles: ClassVar = {
        "good": "Phrases are found better, by more than chance",
        "open": "The change could be chance",
        "bad": "The training made it worse, by more than chance",
    }

    findings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_phrases: int = 0
    denied: int = 0

    @property
    def asked(self) -> str:
        """ "120 phrases on 90 images of 80 patients"."""
        images = f"{plural(self.test_phrases, 'phrase')} on {plural(self.test_images, 'image')}"
        return f"{images} of {plural(self.test_groups or 0, 'patient')}"

    @property
    def lead(self) -> str:
        """What came out, in a sentence."""
        return (
            f"Of {self.asked}, each finding counting alike, the map is highest inside a box for "
            f"{self.adapted[POINTING]:.1%}; guessing reaches {self.guessing[POINTING]:.1%}. The "
            f"contrast-to-noise ratio is {self.adapted['cnr']:.3f}; guessing has 0."
        )

    def table(self) -> Table:
        """Scores for a terminal, beside those of guessing."""
        caption = "guessing: a map that says nothing; means over findings; in brackets 95 % intervals over patients"
        return self.score_table(self.columns, self.asked, caption)


def grounding_report(
    folder: str | Path,
    info: RunInfo,
    metrics: PhraseComparison,
    history: Sequence[Mapping[str, float]] = (),
    log: Sequence[Mapping[str, float]] = (),
    shown: Sequence[Any] = (),
) -> Report:
    """The report of a run, or of an evaluation of one.

    Args:
        info: as in run.json, and `model`, the path of the weights.
        history, log: of the training.
        shown: of `examples`.
    """
    return Report.of_run(
        info,
        kind="Report on phrases in images",
        title=f"{info.backbone.spec}, {'trained' if metrics.zero_shot else 'as it is'}, on {info.data.name}",
        lead=metrics.lead,
        sections=[
            metrics.headline({key: MEASURES[key] for key in SHARES}, metrics.columns, "patients", metrics.asked),
            metrics.section(),
            shared.warnings(_warnings(metrics)),
            shared.notes(info),
            metrics.score_section("Phrases in numbers", MEANS),
            _by_finding(metrics),
            *shown,
            *(shared.training_sections(log or history, info.losses, None) if history else ()),
            _facts(info),
            shared.skipped(info.skipped, "image"),
            shared.use(_steps(info, str(folder)), "images"),
            shared.licences(info, unknown="not stated"),
        ],
        place=f"Folder {folder}. Settings and seed are in its run.json.",
    )


def examples(scores: GroundingScores, load: Callable[[Item], Decoded], judging: Judging) -> list[PictureSection]:
    """Maps with the boxes, the worst first, then some others, evenly spaced.

    Args:
        load: decodes an image.
    """
    order = sorted(range(len(scores.judged)), key=lambda place: scores.judged[place].scores["cnr"])
    worst, others = order[: SHOWN // 2], order[SHOWN // 2 :]
    others = others[:: max(1, len(others) // (SHOWN // 2))][: SHOWN // 2]
    note = "Red to yellow: where the map is high. Frames: the boxes. What the image shows is told by its probability."
    sections = []
    for title, places in (("Maps with the least contrast", worst), ("Some others", others)):
        pictures = [shown for place in places if (shown := _picture(scores.judged[place], load, judging)) is not None]
        if pictures:
            sections.append(PictureSection(title, pictures, note))
    return sections


def _picture(judged: JudgedPhrase, load: Callable[[Item], Decoded], judging: Judging) -> tuple[Any, str] | None:
    """None where the image can no longer be read."""
    try:
        image = load(judged.item)
    except DataError:
        return None
    located = judged.located
    words = f"“{located.sought.phrase}”" + (f", {located.sought.said}" if located.sought.denied else "")
    words += f": CNR {judged.scores['cnr']:.2f}; {located.sought.finding} by the image {located.probability:.0%}"
    return heat_picture(image, judging.heat(located), judged.boxes), words


def _warnings(metrics: PhraseComparison) -> list[str]:
    sentences = []
    if metrics.test_phrases < shared.SMALL_TEST_SET:
        asked = plural(metrics.test_phrases, "phrase")
        sentences.append(f"The test has {asked}: read the intervals, not the single numbers.")
    sentences += shared.few_groups(metrics.test_groups, metrics.test_images)
    if metrics.denied:
        sentences.append(
            f"{plural(metrics.denied, 'phrase')} of the test deny their finding and yet have boxes; the finding was "
            "looked for."
        )
    return sentences


def _by_finding(metrics: PhraseComparison) -> TableSection:
    rows = [
        [
            name,
            f"{of['phrases']:,}",
            *(measure.cell(of[key], (of.get("intervals") or {}).get(key)) for key, measure in MEASURES.items()),
        ]
        for name, of in metrics.findings.items()
    ]
    header = ("Finding", "Phrases", *(measure.title() for measure in MEASURES.values()))
    note = "With 95 % intervals over patients, where a finding has two or more."
    return TableSection("Finding by finding", header, rows, note)


def _facts(info: RunInfo) -> TableSection | None:
    splits, how = info.data.splits, info.get("grounding") or {}
    of_task = {
        "Method": [info.adapter, shared.options(info.settings)],
        "Images": [" · ".join(f"{name} {splits[name]:,}" for name in Item.SPLITS if name in splits)],
        "Backbone": shared.backbone_lines(info.backbone),
        "Maps": [shared.options(how)],
    }
    return shared.facts("What was looked at, and how", info, of_task)


def _steps(info: RunInfo, folder: str) -> list[tuple[str, str]]:
    place = shlex.quote(folder)
    find = f'vladapt predict {place} new.png --classes "left basal opacity" --out maps'
    return [
        ("Show where a phrase is true in a new image:", find),
        ("Score it again, on its own test images or on others (--data):", f"vladapt eval {place}"),
    ]
