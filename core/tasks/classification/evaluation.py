"""What `eval` writes of a classification: the report, and what each image was classified as."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...confidence.calibration import Calibration
from ...contracts.items import Item
from ...contracts.judgement import Evaluated, Findings, Scores
from ...contracts.prepared import PreparedData
from ...contracts.use import FittedRun
from ...runs.evaluations import make_folder
from ...runs.folder import now
from ...runs.redaction import LEFT_OUT, NO_NAME, Redaction
from ...runs.run_sections import write_report
from ...runtime.files import write_whole
from .fitting import PREDICTIONS
from .report import classification_report
from .results import ClassificationResults, Explain


def write_evaluation(
    folder: Path,
    run: FittedRun,
    prepared: PreparedData,
    place: str,
    items: Sequence[Item],
    scores: Scores,
    result: Evaluated,
    *,
    class_names: Sequence[str],
    calibration: Calibration | None,
    findings: Findings,
    redact: bool = False,
    explain: Explain | None = None,
) -> None:
    """predictions.csv and, where there are labels, report.html.

    Args:
        prepared: the data that was scored.
        place: where the data lie, as it was given.
        items: the images, in the order of the scores.
        result: of the evaluation.
        class_names: of the scores.
        calibration: what confidences are made with, or None.
        findings: of the judgements.
        redact: write numbers for names, and no pictures.
        explain: what says why the mistakes were made, as of `ClassificationResults`.

    Raises:
        DataError: nothing can be written there.
    """
    make_folder(folder)
    names, skipped = list(class_names), result.skipped
    hidden = Redaction.of(prepared.data, skipped) if redact else None
    ids = [item.id if hidden is None else hidden.name(item.id) for item in items]
    write_whole(folder / PREDICTIONS, _table(names, ids, scores, calibration))
    if scores.labels is None:
        return
    data = {"name": prepared.data.name, "path": place, "kind": prepared.data.kind}
    if hidden is not None:
        data |= {"name": NO_NAME, "path": LEFT_OUT}
        skipped = hidden.pairs(skipped)
    notes = [note[0].upper() + note[1:].rstrip(".") + "." for note in result.notes or ()]
    licence = {"licence": prepared.data.licence}
    results = ClassificationResults(
        info={**run.info, "created": now(), "class_names": names, "data": {**data, **licence}, "notes": notes},
        class_names=names,
        labels=scores.labels,
        zero_shot_logits=scores.zero_shot_logits,
        adapted_logits=scores.adapted_logits,
        calibration=calibration,
        metrics=scores.metrics,
        ids=ids,
        thumbnails=None if prepared.backbone is None or redact else lambda row: prepared.data.load(items[row]),
        skipped=[tuple(pair) for pair in skipped],
        groups=scores.groups,
        explain=explain,
        findings=findings,
    )
    report = classification_report(results, run.shown)
    origin = f"Evaluation of the run {run.shown}, which is unchanged; the numbers are in metrics.json beside this page."
    lead = f"{result.words} {report.lead.replace(' that it never saw', '')}"
    write_report(folder, replace(report, kind="Report of one evaluation", lead=lead, place=origin))


def _table(class_names: Sequence[str], ids: Sequence[str], scores: Scores, calibration: Calibration | None) -> str:
    """A row per image: id, what it is and what it was called, with the confidence; of several labels a probability
    each."""
    logits, text = scores.adapted_logits.float(), io.StringIO(newline="")
    several = scores.labels is not None and scores.labels.ndim == 2
    plain = logits.sigmoid() if several else logits.softmax(dim=1)
    probs = plain if calibration is None else calibration.probabilities(logits)
    writer = csv.writer(text, lineterminator="\n")
    if several:
        writer.writerow(["id", *class_names])
        for name, row in zip(ids, probs.tolist()):
            writer.writerow([name, *(f"{value:.6f}" for value in row)])
        return text.getvalue()
    confidence, predicted = probs.max(dim=1)
    truth = [""] * len(ids) if scores.labels is None else [class_names[c] for c in scores.labels.tolist()]
    writer.writerow(["id", "true", "label", "confidence"])
    for name, true, label, sure in zip(ids, truth, predicted.tolist(), confidence.tolist()):
        writer.writerow([name, true, class_names[label], f"{sure:.6f}"])
    return text.getvalue()
