"""What the report of a classification shows: both models' scores, what is confused, how sure it is, how to use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...confidence.calibration import Calibration
from ...contracts.items import Item
from ...contracts.judgement import Findings, JudgedClassifier, Place
from ...contracts.run_info import AxisScore, RunInfo
from ...judgements.baselines import GUESSING, LARGEST, LINEAR, ZERO_SHOT, BaselineComparison
from ...metrics.classification import ClassRow, confusion_matrix, per_class_table, top_label_mistakes, top_mistakes
from ...metrics.score_intervals import FEWEST_OF_CLASS
from ...runs import run_sections as shared
from ...runs.run_sections import Report
from ...runs.sections import (
    MEASURES,
    Bar,
    BarsSection,
    Cell,
    ConfusionSection,
    HeadlineSection,
    Measure,
    MistakeSection,
    Number,
    PictureSection,
    TableSection,
    Track,
    VerdictSection,
    plural,
)
from ...runtime.progress import part
from .explaining import Explain, SamplePictures, explained_mistakes, picture_in
from .scoring import Fitted, commonest, warnings_of

MANY_CLASSES, SHOWN_OF_MANY = 100, 20
WIDEST_MATRIX, MOST_COUNTED = 25, 40
PAIRS, PROMPTS = 20, 4
MOST_THRESHOLDS = 12
AUROC, SHARE = MEASURES["auroc"], Measure("")
NO_ZERO_SHOT = VerdictSection("open", "Nothing to compare with", "There is no zero-shot score for this task.")
MISTAKES = 12


@dataclass(kw_only=True)
class ClassificationResults:
    """What the report is made of.

    Attributes:
        info: as in run.json; what it lacks is left out of the page.
        class_names: C names.
        labels: (N,) class indices of the test images, or (N, C) 0/1/NaN.
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: as in metrics.json.
        ids: N names of test images; may be empty.
        groups: N keys of test images that belong together, or None.
        thumbnails: test row -> decoded image, (H, W, 3) uint8 or float 0..1, or (T, H, W, 3); None: no pictures.
        skipped: (file, reason) of all that was left out.
        calibration: what confidences are made with, or None.
        findings: of the judgements, whose sections stand where these say.
        further: sections of a task of a domain's own.
        explain: why the mistakes were made; None: not explained.
        tiles: which tiles decided, of slides; None of other samples.
    """

    info: RunInfo
    class_names: Sequence[str]
    labels: Tensor
    zero_shot_logits: Tensor | None
    adapted_logits: Tensor
    metrics: dict[str, Any]
    ids: Sequence[str] = ()
    groups: Sequence[str] | None = None
    thumbnails: Callable[[int], np.ndarray] | None = None
    skipped: Sequence[tuple[str, str]] = ()
    calibration: Calibration | None = None
    findings: Findings = field(default_factory=lambda: Findings({}))
    further: Sequence[Any] = ()
    explain: Explain | None = None
    tiles: PictureSection | None = None

    @classmethod
    def of(
        cls, judged: JudgedClassifier, findings: Findings, info: RunInfo, *, shows: bool, **further: Any
    ) -> ClassificationResults:
        """Of a scored model.

        Args:
            shows: whether samples may be shown.
            further: fields that do not follow from these.
        """
        scores, tiles = judged.scores, None
        if shows and judged.test.stored_bags is not None:
            from .tiles_shown import tile_section  # reports of bags alone need it

            tiles = tile_section(judged, further["ids"], further["thumbnails"])
        return cls(
            info=info,
            class_names=list(judged.class_names),
            labels=scores.labels,
            zero_shot_logits=scores.zero_shot_logits,
            adapted_logits=scores.adapted_logits,
            metrics=scores.metrics,
            groups=scores.groups,
            calibration=judged.calibration,
            findings=findings,
            tiles=tiles,
            **further,
        )

    @classmethod
    def of_fit(cls, done: Fitted, info: RunInfo, further: Sequence[Any], *, shows: bool) -> ClassificationResults:
        """Of a new fit.

        Args:
            info: as in run.json, so redacted where samples are neither named nor shown.
            further: sections of a task of a domain's own.
            shows: whether samples may be shown.
        """
        of = {"ids": info.splits["test"], "skipped": [tuple(pair) for pair in info.skipped], "further": further}
        if shows:
            prepared = done.judged.prepared
            pictures = (prepared.thumbnail, picture_in(prepared))
            explain = explained_mistakes(prepared, done.adapter, done.labelled, prepared.test.features, *pictures)
            of |= {"thumbnails": prepared.thumbnail, "explain": explain}
        return cls.of(done.judged, done.findings, info, shows=shows, **of)

    @property
    def confident_logits(self) -> Tensor:
        """(N, C) adapted logits whose softmax or sigmoids are the confidences that users see."""
        return self.adapted_logits if self.calibration is None else self.calibration.scaling.logits(self.adapted_logits)

    @cached_property
    def compared(self) -> BaselineComparison:
        """The adapted model and its baselines."""
        return BaselineComparison.from_json(self.metrics)

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    @property
    def pictures(self) -> SamplePictures:
        return SamplePictures(self.thumbnails, self.ids)


def classification_report(results: ClassificationResults, folder: str | Path) -> Report:
    """The report of a run in `folder`."""
    info, names, findings = results.info, results.class_names, results.findings
    verdict = findings.sections(Place.VERDICT) or ([NO_ZERO_SHOT] if results.zero_shot_logits is None else [])
    warnings = warnings_of(results.compared, results.labels, names, info.notes)
    details = [_per_label(results)] if results.multilabel else [_per_class(results), _confusion(results)]
    return Report.of_run(
        info,
        kind="Report of one adaptation run",
        title=f"{info.adapter or 'Adapter'} on {info.data.name or 'a data set'}",
        lead=_lead(results),
        sections=[
            _headline(results),
            *verdict,
            shared.warnings(warnings),
            shared.notes(info),
            _all_sides(results),
            _scores(results),
            *findings.sections(Place.SCORES),
            *findings.sections(Place.REASONS),
            shared.methods_judged(info),
            *findings.sections(Place.ABILITIES),
            *details,
            *results.further,
            *findings.sections(Place.DETAILS),
            *findings.sections(Place.TRUST),
            mistakes_section(results),
            results.tiles,
            *(results.pictures.section(*each) for each in findings.pictured),
            None if results.multilabel else results.pictures.contact_sheet(results.labels, names),
            _facts(info, names),
            _counts(info, names, "Label" if results.multilabel else "Class"),
            shared.skipped(results.skipped),
            shared.use(_steps(info, str(folder))),
            shared.licences(info),
        ],
        place=f"Run folder {folder}. The whole recipe, the split and the seed are in its run.json.",
    )


def _lead(results: ClassificationResults) -> str:
    """The deciding score beside that of the strongest baseline."""
    measure, _, after = _deciding(results)
    seen = "that it saw without their labels" if results.info.transductive else "that it never saw"
    name = "macro AUROC" if results.multilabel else measure.name.lower()
    reached = f"{'an' if name[0] in 'aeiou' else 'a'} {name} of {measure.text(after)}"
    lead = f"On {_test_images(results)} {seen}, the adapted model reaches {reached}"
    best = results.compared.best
    return (
        f"{lead}."
        if best is None
        else f"{lead}; the strongest baseline, {best.name}, has {measure.text(best.scores[results.compared.deciding])}."
    )


def _test_images(results: ClassificationResults) -> str:
    groups, images = results.compared.test_groups, plural(len(results.labels), "test image")
    return f"{images} of {plural(groups, 'group')}" if groups else images


def _headline(results: ClassificationResults) -> HeadlineSection:
    """The deciding score of the baselines and of the adapted model, each with its interval."""
    measure, before, after = _deciding(results)
    compared, deciding, footnote = results.compared, results.compared.deciding, ""
    if results.multilabel:
        floor = ("Guessing", 0.5)
    else:
        name, share = commonest(results.labels, results.class_names)
        of = compared.baselines[LARGEST].scores if LARGEST in compared.baselines else {"accuracy": share}
        floor = (f"Always “{name}”", of[deciding])
    numbers, tracks = [], [Track(*floor, role="floor")]
    if results.zero_shot_logits is not None:
        names = "label names" if results.multilabel else "class names"
        footnote = f"Zero-shot is the unchanged model, given only the {names}."
        numbers.append(Number("Zero-shot", measure.text(before)))
        tracks.append(Track("Zero-shot", before, compared.between(ZERO_SHOT)))
    if LINEAR in compared.baselines:
        reached = compared.baselines[LINEAR].scores[deciding]
        footnote += " The linear probe is a logistic regression on the same features of the same images."
        numbers.append(Number("Linear probe", measure.text(reached)))
        tracks.append(Track("Linear probe", reached, compared.between(LINEAR)))
    numbers.append(Number("Adapted", measure.text(after), main=True))
    tracks.append(Track("Adapted", after, compared.between("adapted"), "adapted"))
    if compared.best is not None and after is not None:
        unit = "" if results.multilabel else "points"
        change = measure.change(compared.best.scores[deciding], after).text
        numbers.append(Number("Against the best of them", change, f"{unit} to {compared.best.name}".strip()))
    interval = f"{measure.name} with its 95 % interval ({_how(results)})" if compared.metric_intervals else ""
    return HeadlineSection(numbers, {"": tracks}, measure, interval, _test_images(results), footnote.strip())


def _all_sides(results: ClassificationResults) -> BarsSection | None:
    """The score of the test images and of each side from which the run was looked at besides; None of no other side."""
    measure, before, after = _deciding(results)
    sides = [score for score in results.findings.axis_scores.values() if isinstance(score, AxisScore)]
    if not sides or after is None:
        return None
    bars = [Bar("Test images as they are", after, results.compared.between("adapted"), before)]
    bars += [Bar(side.title, side.score, side.interval, side.zero_shot) for side in sides]
    note = (
        f"The {measure.name.lower()} on the test images, and what the sections below explain. The line on a bar is its "
        "95 % interval, the thin bar below it zero-shot. Its section says on which images a side rests."
    )
    abouts = (side.about for side in sides if side.about)
    return BarsSection("From all sides", bars, " ".join((note, *abouts)), measure)


def _how(results: ClassificationResults) -> str:
    """How the intervals of the deciding metric are made."""
    compared = results.compared
    ways = {"auroc": "DeLong, Hanley and McNeil", "balanced_accuracy": "from the exact limits of each class"}
    way = ways.get(compared.deciding, "Korn and Graubard" if compared.test_groups else "Clopper and Pearson")
    return f"{way}, over {compared.test_groups} groups" if compared.test_groups else way


def _deciding(results: ClassificationResults) -> tuple[Measure, float | None, float | None]:
    """The score that decides, before and after."""
    compared = results.compared
    return compared.measure, (compared.zero_shot or {}).get(compared.deciding), compared.adapted.get(compared.deciding)


def _scores(results: ClassificationResults) -> TableSection:
    compared = results.compared
    before, after = compared.beside_adapted(compared.zero_shot or {}), compared.adapted
    withheld = after.get("macro_f1") is not None and not compared.between("adapted", "macro_f1")
    note = f"The arrow says which way is better. {_answers_words(results)}"
    if withheld and compared.metric_intervals:
        unit = "groups" if compared.test_groups else "test images"
        note += f" Macro F1 has no interval, because a class has fewer than {FEWEST_OF_CLASS} {unit}."
    accuracy = MEASURES["accuracy"]
    accuracy = Measure("Accuracy", "share of known labels that are right") if results.multilabel else accuracy
    bounds = {
        key: (compared.between(ZERO_SHOT, key) if key in before else None, compared.between("adapted", key))
        for key in MEASURES
    }
    rows = shared.score_rows({**MEASURES, "accuracy": accuracy}, before, after, bounds)
    others = [each for key, each in compared.baselines.items() if key not in (ZERO_SHOT, GUESSING)]
    keys = [key for key in MEASURES if key in after]
    for key, row in zip(keys, rows):
        row[1:1] = [MEASURES[key].cell(compared.beside_adapted(other.scores).get(key)) for other in others]
    header = (*(other.column for other in others), *(("Zero-shot",) if before else ()), "Adapted")
    return TableSection("All scores", ("Score", *header, *(("Change",) if before else ())), rows, note)


def _answers_words(results: ClassificationResults) -> str:
    """From which probability on an image has a label."""
    if not results.multilabel:
        return "Means over classes leave out classes without a test image."
    if not (thresholds := results.metrics.get("thresholds")):
        return "Macro F1 and accuracy use a threshold of 0.5 on raw probabilities."
    listed = ", ".join(f"{name} {value:.2f}" for name, value in list(thresholds.items())[:MOST_THRESHOLDS])
    more = len(thresholds) - MOST_THRESHOLDS
    return (
        "Macro F1 and accuracy of the adapted model use a threshold for each label, as “vladapt predict” does: "
        f"{listed}{f' and {more} more' if more > 0 else ''}, the best on the calibration rows. Zero-shot and the "
        "linear probe have none and are at 0.5: compare them in the rows “at 0.5”."
    )


def _per_class(results: ClassificationResults) -> TableSection:
    """All classes, or the worst and the best of many, by recall."""
    compared = results.zero_shot_logits is not None
    logits = (results.zero_shot_logits, results.adapted_logits)
    table = per_class_table(results.labels, *logits, results.class_names, results.groups)
    note = (
        "Recall is the share of a class’s test images that are found. Precision is the share of answers with that name "
        "that are right. Each 95 % interval is for its class alone, not adjusted for their number."
    )
    rows: list[Any] = [_class_cells(row, compared) for row in table]
    if len(table) >= MANY_CLASSES:
        note += f" The test set has {len(table)} classes; shown are the worst and the best by recall."
        tested = [row for row in table if row.recall is not None]
        tested.sort(key=lambda row: (row.recall, row.f1, row.name))
        best, rows = tested[SHOWN_OF_MANY:][-SHOWN_OF_MANY:][::-1], []
        for name, shown in (("worst", tested[:SHOWN_OF_MANY]), ("best", best)):
            rows += [f"The {len(shown)} {name}", *(_class_cells(row, compared) for row in shown)] if shown else []
    both = ("Recall, zero-shot", "Recall, adapted", Cell("Recall, 0 to 100%", tone="pair"))
    header = ("Class", "Test images", *(both if compared else ("Recall",)), "Precision", "F1")
    return TableSection("Class by class", header, rows, note)


def _class_cells(row: ClassRow, compared: bool) -> list[Any]:
    old, new, precision = (
        None if value is None else f"{value:.0%}" for value in (row.zero_shot_recall, row.recall, row.precision)
    )
    new, precision = (
        None if value is None else Cell(value, SHARE.between(between))
        for value, between in ((new, row.recall_interval), (precision, row.precision_interval))
    )
    both = (old, new, Cell("", tone="pair", shift=None if new is None else (row.zero_shot_recall, row.recall)))
    f1 = None if row.f1 is None else f"{row.f1:.2f}"
    return [row.name, row.images, *(both if compared else (new,)), precision, f1]


def _per_label(results: ClassificationResults) -> TableSection:
    before, after = results.compared.zero_shot or {}, results.compared.adapted
    compared, rows = results.zero_shot_logits is not None, []
    for c, name in enumerate(results.class_names):
        column, old, new = results.labels[:, c], before.get(f"auroc/{name}"), after.get(f"auroc/{name}")
        counts = f"{int((column == 1).sum())} of {int((~column.isnan()).sum())}"
        between = [results.compared.between(side, f"auroc/{name}") for side in (ZERO_SHOT, "adapted")]
        cells = [AUROC.cell(*each) for each in zip((old, new), between)]
        scores = (*cells, AUROC.change(old, new))
        rows.append((name, counts, *(scores if compared else scores[1:2])))
    both = ("AUROC, zero-shot", "AUROC, adapted", "Change")
    header = ("Label", "Present, of known", *(both if compared else ("AUROC",)))
    note = (
        f"AUROC is the {AUROC.meaning}. Unknown labels are left out. Each 95 % interval is for its label alone, not "
        "adjusted for their number."
    )
    return TableSection("Label by label", header, rows, note)


def _confusion(results: ClassificationResults) -> ConfusionSection | TableSection:
    """The matrix of few classes; of many, the pairs most often taken for each other."""
    names, title = list(results.class_names), "Which classes are confused"
    matrix = confusion_matrix(results.adapted_logits, results.labels, len(names))  # (C, C)
    if len(names) <= WIDEST_MATRIX:
        return ConfusionSection(title, names, matrix.tolist())
    wrong = matrix.clone().fill_diagonal_(0)
    places = wrong.flatten().argsort(descending=True, stable=True)[:PAIRS].tolist()
    pairs = [divmod(place, len(names)) for place in places]
    rows = [(names[r], names[c], int(wrong[r, c]), int(matrix[r].sum())) for r, c in pairs if wrong[r, c] > 0]
    confused = "These pairs are confused most often." if rows else "No image was misclassified."
    note = f"With {len(names)} classes a full matrix would be unreadable. {confused}"
    return TableSection(title, ("True class", "Called", "Images", "Of"), rows, note, text_columns=2)


def _facts(info: RunInfo, class_names: Sequence[str]) -> TableSection | None:
    support, val, more = info.splits.get("support"), info.splits.get("val"), len(info.templates) - PROMPTS
    reached = "" if info.fit.val_score is None else f"; score there {info.fit.val_score:.3f}"
    options = {name: value for name, value in info.adapter_options.items() if value is not None}
    of_task = {
        "Classes": [len(class_names)],
        "Labelled images": [
            "all that there are" if info.shots is None else f"up to {info.shots} per class",
            support and f"{len(support)} in all, drawn from the training images",
            val and f"{len(val)} more for choosing settings",
        ],
        "Backbone": shared.backbone_lines(info.backbone) if info.backbone else ["features from a file"],
        "Method": [info.adapter, shared.options(options)],
        "Chosen settings": [
            shared.options(info.fit.chosen),
            info.fit.chosen_on and f"on: {info.fit.chosen_on}{reached}",
        ],
        "Prompts": [
            *(f"“{prompt}”" for prompt in info.templates[:PROMPTS]),
            more > 0 and f"and {more} more (run.json has all)",
        ],
    }
    return shared.facts("What was adapted, and on what", info, of_task)


def _counts(info: RunInfo, class_names: Sequence[str], kind: str) -> TableSection | None:
    """Images per class and split: rows of few classes, the range of many; None where the run does not say."""
    counts = info.data.counts
    if not counts:
        return None
    splits = [split for split in Item.SPLITS if split in counts]
    columns = [[counts[split].get(name, 0) for name in class_names] for split in splits]
    rows = list(zip(class_names, *columns))
    if len(rows) > MOST_COUNTED:
        rows = [("each class", *(f"{min(column)} to {max(column)}" for column in columns))]
    total = ("All labels" if kind == "Label" else "All", *map(sum, columns))
    return TableSection("Images in the data set", (kind, *splits), rows, total=total, sub=True)


def _steps(info: RunInfo, folder: str) -> list[tuple[str, str]]:
    """How the run is used from a terminal and from Python."""
    score = ("Score it again, on its own test images or on others (--data):", f"vladapt eval {shlex.quote(folder)}")
    if not info.backbone:
        text = "This run was made from a file of features, so it classifies features of the same backbone, not images."
        return [(text, ""), score]
    slides = ("slide.h5", "slides, by the features of their tiles")
    file, words = slides if info.backbone.of_tiles else ("image.png", "images")
    predict = f"vladapt predict {shlex.quote(folder)} {file}"
    return [(f"Classify new {words}, from a terminal:", predict), score, ("From Python:", _python(folder, file))]


def _python(folder: str, file: str) -> str:
    return f"""\
import vladapt

predictor = vladapt.load_run({json.dumps(folder, ensure_ascii=False)})
for row in predictor.predict([{json.dumps(file)}]).rows():
    print(row)"""


def mistakes_section(results: ClassificationResults) -> MistakeSection:
    """Those that it is surest of, each with its picture where there are any."""
    names, scores = results.class_names, (results.confident_logits, results.labels)
    if results.multilabel:
        answers = None if results.calibration is None else results.calibration.answers(results.adapted_logits)
        presence_words = ("absent", "present")
        wrong = [
            (m, m.label, f"{names[m.label]}: {presence_words[m.present]}", presence_words[not m.present])
            for m in top_label_mistakes(*scores, MISTAKES, answers)
        ]
    else:
        wrong = [(m, m.predicted, names[m.true], names[m.predicted]) for m in top_mistakes(*scores, MISTAKES)]
    pictures = results.pictures
    shown = [(*pictures.of(m.index), true, called, m.confidence) for m, _, true, called in wrong]
    strips, pictured = bool(shown) and pictures.in_parts, results.thumbnails is not None
    reasons, note = [], ""
    if shown and results.explain is not None:
        with part("explanations"):
            reasons, note = results.explain([(m.index, target) for m, target, _, _ in wrong])
    return MistakeSection("Most confident mistakes", shown, pictured, strips, reasons, note)
