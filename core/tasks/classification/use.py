"""A run used again: scored on its own or other data, with what `eval` writes of that, or asked of new images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...confidence.calibration import Calibration
from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.features import FeatureSet
from ...contracts.items import DomainData, Item, items_of
from ...contracts.judgement import EVAL, Evaluated, Findings, OtherRun
from ...contracts.prepared import PreparedData
from ...contracts.recipe import holds_features
from ...contracts.run_info import FittedRun
from ...contracts.task import Task
from ...contracts.use import Use
from ...data.verify import digests_of
from ...errors import CapabilityError, ConfigError, DataError
from ...judgements.per_patient import Patients
from ...recipes.asked_for import facts_for_judging, on_target, place_of_data
from ...registry import load_adapter
from ...registry.build import judgements_of, judges_at, lasting
from ...runs.folder import in_the_fit, make_folder, note_on_digests, now, open_run
from ...runs.redaction import LEFT_OUT, NO_NAME, Redaction
from ...runs.run_sections import write_report
from ...runtime.distributed import is_main
from ...runtime.files import claimed, write_whole
from ...runtime.progress import Reporter
from .explaining import Explain, explained_mistakes
from .feature_rows import rows_of_split
from .predictions import Predictions, check_per_patient
from .predictor import Predictor, check_same_backbone
from .protocols import protocol_named
from .report import ClassificationResults, classification_report
from .resources import check_at_prediction
from .scoring import PROBE_FILE, ClassificationFit, fitted_zero_shot, score_on
from .stored_run import PREDICTIONS, answers_table, facts_of_skipped, fitted_adapter, labelled_in_run, recipe_again

STREAMING = "streaming.lock"


def evaluate_run(use: Use, task: Task, read: Callable[..., PreparedData], reporter: Reporter) -> Evaluated:
    """Scores of a run on a split; see `Task.evaluate`.

    Args:
        read: what gives the data side of a recipe, as `Classification.prepared`.

    Raises:
        DataError: the data does not fit the run. CapabilityError: another backbone than that of the run.
    """
    recipe, source, domain = recipe_again(use), use.data or use.features or "", task.domain
    protocol = protocol_named(recipe.protocol)
    transfer = protocol.transfer if source else None
    recipe = recipe.with_(shots=0) if transfer is None else on_target(recipe)  # nothing is drawn
    judges = judges_at(task, EVAL, {**lasting(task, recipe.task_options), **use.judging})
    fitted = None if source else use.run.info
    prepared = read(recipe, reporter, divided=not source, fitted=fitted, judges=judges)
    adapter = fitted_adapter(use.run, prepared.backbone).to(prepared.device)
    check_at_prediction(adapter, recipe.resources, use.resources)
    if use.per_patient is not None:
        check_per_patient(use, adapter)
        Patients.of_run(use.run, Calibration.load(use.run.path), use.per_patient)  # which may be refused
    for judgement in judges:
        judgement.check(adapter, prepared.class_names)
    if "base" in adapter.at_predict:
        prepared.base.check_is(use.run.info.base)
    rival = None if use.against is None else _rival(use, task, adapter, prepared.class_names)
    if prepared.backbone is None:
        check_same_backbone(adapter, prepared.made_by, f"--features {source}")
    chosen = rows_of_split(prepared, use.split, everything=bool(source))
    probe = _probe_of(use.run, prepared.backbone, prepared.device)
    if transfer is None or tuple(prepared.class_names) == tuple(adapter.class_names_):
        scored, columns, names = adapter, None, adapter.class_names_
        chosen = _in_order_of(chosen, prepared.class_names, names, str(source))
    else:
        (scored, columns), names = transfer.onto(adapter, prepared), prepared.class_names
        probe = None if columns is None else probe
    zero_shot = fitted_zero_shot(chosen, prepared.classifier_of(names))
    scores = score_on(prepared, scored, chosen, names, zero_shot, reporter, probe=probe, columns=columns)
    against = None if rival is None else _scored_by(rival, use, read, reporter, chosen, names)
    judged = ClassificationFit(
        at=EVAL,
        against=against,
        prepared=prepared,
        adapter=scored,
        test=chosen,
        scores=scores,
        class_names=names,
        reporter=reporter,
        **facts_for_judging(recipe),
        use=use,
        deciding=protocol.deciding,
        columns=columns,
        own_classes=names is adapter.class_names_,
        fitted_on=partial(_fitted_on, use, read) if source else None,
    )
    findings = Findings(judgements_of(task))
    notes = findings.add(judges, judged)
    items = items_of(chosen.ids, prepared.data.items)
    result = Evaluated(
        run=use.run.shown,
        data=prepared.data.name,
        split=use.split,
        in_fit=in_the_fit(use.run.info, lambda: digests_of(items)),
        metrics=scores.metrics,
        notes=[*notes, *note_on_digests(use.run.info)] if notes else None,
        skipped=facts_of_skipped(prepared.data.skipped, prepared.skipped),
    )
    if use.out is not None and is_main():
        explain = None
        if names is adapter.class_names_ and not use.redact:
            labelled, picture_of = labelled_in_run(use.run, domain, task.name, recipe.reading)
            decoded = None if prepared.backbone is None else lambda row: prepared.data.load(items[row])
            explain = explained_mistakes(prepared, adapter, labelled, chosen.features, decoded, picture_of)
        place = place_of_data(recipe)
        _write_evaluation(Path(use.out), use.run, judged, place, items, result, findings, use.redact, explain)
    return result


def _fitted_on(use: Use, read: Callable[..., PreparedData]) -> DomainData:
    """The data that the run was fitted on, read again.

    Raises:
        DataError: they are not there any more.
    """
    recipe = recipe_again(replace(use, data=None, features=None)).with_(shots=0)
    return read(recipe, Reporter(quiet=True), divided=False, fitted=None).data


def _rival(use: Use, task: Task, adapter: Adapter, class_names: Sequence[str]) -> FittedRun:
    """The run that is to be compared with.

    Args:
        adapter: of the run that is evaluated.
        class_names: of the data.

    Raises:
        ConfigError: it is of another task or of other classes.
    """
    rival = open_run(use.against or "")
    for ours, theirs in ((task.name, rival.info.task), (use.run.info.data.kind, rival.info.data.kind)):
        if ours != theirs:
            raise ConfigError(f"--against {use.against}: a run of {theirs}, and this is one of {ours}; give such a run")
    for names, whose in ((rival.info.class_names, "that run"), (class_names, "these data")):
        if sorted(names) != sorted(adapter.class_names_):
            unlike = sorted({*names} ^ {*adapter.class_names_})
            raise ConfigError(
                f"--against {use.against}: both runs and the data must have the same classes, and {whose} differ in "
                f"“{unlike[0]}”; compare runs of the same classes"
            )
    return rival


def _scored_by(
    rival: FittedRun,
    use: Use,
    read: Callable[..., Any],
    reporter: Reporter,
    chosen: FeatureSet,
    names: Sequence[str],
) -> OtherRun:
    """Another run on the images that were scored.

    Args:
        chosen: features of these images, by the backbone of the run that is evaluated.
        names: the C classes, in the order of its logits.

    Raises:
        DataError: it cannot read some of these images. CapabilityError: another backbone than that of the features.
    """
    own = recipe_again(use)
    place = own.features or own.data_path
    if own.features:
        other = replace(use, run=rival, data=None, features=place)
    else:
        other = replace(use, run=rival, data=place, features=None)
    recipe = recipe_again(other).with_(shots=0)
    prepared = read(recipe, reporter, divided=False, fitted=None)
    adapter = fitted_adapter(rival, prepared.backbone).to(prepared.device)
    check_at_prediction(adapter, recipe.resources, use.resources)
    if prepared.backbone is None:
        check_same_backbone(adapter, prepared.made_by, f"--features {place}")
    if chosen.ids is None:
        seen = rows_of_split(prepared, use.split, everything=bool(use.data or use.features))
    else:
        seen = prepared.of_ids(chosen.ids)
    if len(seen) != len(chosen):
        raise DataError(
            f"--against {use.against}: it can read {len(seen)} of the {len(chosen)} images; compare on others"
        )
    logits = score_on(prepared, adapter, replace(seen, labels=None), names, None, reporter).adapted_logits
    order = [list(adapter.class_names_).index(name) for name in names]
    overlap = in_the_fit(rival.info, lambda: digests_of(items_of(chosen.ids, prepared.data.items)))
    return OtherRun(rival.path.name, logits[:, order], overlap.get("in_fit_words", ""))


def _write_evaluation(
    folder: Path,
    run: FittedRun,
    judged: ClassificationFit,
    place: str,
    items: Sequence[Item],
    result: Evaluated,
    findings: Findings,
    redact: bool = False,
    explain: Explain | None = None,
) -> None:
    """predictions.csv and, where there are labels, report.html.

    Args:
        judged: the data that was scored, and the scores.
        place: where the data lie, as it was given.
        items: the images, in the order of the scores.
        result: of the evaluation.
        findings: of the judgements.
        redact: write numbers for names, and no pictures.
        explain: what says why the mistakes were made, as of `ClassificationResults`.

    Raises:
        DataError: nothing can be written there.
    """
    make_folder(folder)
    data, skipped, images = judged.prepared.data, result.skipped, judged.prepared.backbone is not None
    hidden = Redaction.of(data, skipped) if redact else None
    ids = [item.id if hidden is None else hidden.name(item.id) for item in items]
    write_whole(folder / PREDICTIONS, answers_table(judged, ids, with_truth=True))
    if judged.labels is None:
        return
    facts = {"name": data.name, "path": place, "kind": data.kind}
    if hidden is not None:
        facts |= {"name": NO_NAME, "path": LEFT_OUT}
        skipped = hidden.pairs(skipped)
    notes = [note[0].upper() + note[1:].rstrip(".") + "." for note in result.notes or ()]
    of = {"class_names": list(judged.class_names), "data": {**facts, "licence": data.licence}, "notes": notes}
    results = ClassificationResults.of(
        judged,
        findings,
        run.info.with_(created=now(), **of),
        shows=not redact,
        ids=ids,
        thumbnails=(lambda row: data.load(items[row])) if images and not redact else None,
        skipped=[tuple(pair) for pair in skipped],
        explain=explain,
    )
    report = classification_report(results, run.shown)
    lead = f"{result.words} {report.lead.replace(' that it never saw', '')}"
    write_report(folder, report.of_evaluation(run.shown, lead))


def _probe_of(run: FittedRun, backbone: Backbone | None, device: torch.device) -> Adapter | None:
    """The logistic regression of a run; None where it has none."""
    path = run.path / PROBE_FILE
    return load_adapter(path, backbone).to(device) if path.is_file() else None


def predict_with_run(use: Use, task: Task, reporter: Reporter) -> Predictions:
    """Classes of new images, or of features where the run was made from a features file.

    Raises:
        DataError: all images cannot be read. CapabilityError: images are given to such a run.
    """
    of_rows = not use.run.info.backbone and any(map(holds_features, use.images))
    load = Predictor.of_rows if of_rows else Predictor.of_use
    if not use.stream:
        return load(use, task).predict_use(use, reporter)
    with _alone(use.run):
        predictor = load(use, task)
        predictor.check_streams()
        predicted = predictor.predict_use(use, reporter)
        use.run.replace_adapter(predictor.adapter.save)
    return predicted


@contextmanager
def _alone(run: FittedRun) -> Iterator[None]:
    """One process at a time streams through a run.

    Raises:
        DataError: another does.
    """
    try:
        marker = claimed(run.path / STREAMING)
    except BlockingIOError:
        raise DataError(f"{run.path}: another process streams images through this run; wait until it is done") from None
    except OSError as error:
        raise DataError(
            f"{run.shown}: cannot be written to ({error.strerror}); --stream keeps what the run learns"
        ) from None
    try:
        yield
    finally:
        (run.path / STREAMING).unlink(missing_ok=True)
        marker.close()


def _in_order_of(features: FeatureSet, have, want, source: str) -> FeatureSet:
    """Labels renumbered to the classes of the fit, by name."""
    have, want = list(have), list(want)
    if have == want:
        return features
    unknown = [name for name in have if name not in want]
    if unknown:
        raise DataError(
            f"{source}: class '{unknown[0]}' is not one of the run's ({', '.join(want[:8])}); rename or remove it"
        )
    if features.multilabel:
        if len(have) != len(want):
            raise CapabilityError(f"{source}: has {len(have)} labels, the run {len(want)}; give all of them")
        return replace(features, labels=features.labels[:, [have.index(n) for n in want]], class_names=tuple(want))
    position = torch.tensor([want.index(name) for name in have], device=features.labels.device)
    return replace(features, labels=position[features.labels], class_names=tuple(want))
