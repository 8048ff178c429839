"""`select`: the images of a pool that are worth labelling next, or the labels of a set that look wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.features import Batch, FeatureSet, TextClassifier
from ..contracts.items import items_of
from ..contracts.judgement import SELECT, Findings, JudgedLabels
from ..contracts.options import keywords, options_from
from ..contracts.recipe import AUTO, SAMPLE, Recipe
from ..contracts.shown import in_short
from ..contracts.task import IMAGE_KEYS, Task, refuse_unused
from ..data.file_hashes import FileHashes
from ..data.label_files import (
    RANDOM,
    Answer,
    TableSource,
    Todo,
    is_label_file,
    read_answers,
    todo_text,
)
from ..data.pools import named_classes, pool_of_classes, read_pool
from ..data.splits import links_of
from ..errors import CapabilityError, ConfigError, DataError, did_you_mean, shortened
from ..labelling.curve import CurvePoint, Payoff, payoff
from ..labelling.rounds import EVERY, Known, Round, choose_round
from ..labelling.wrong_labels import require_cleanlab
from ..recipes.asked_for import read_data, readable_samples, words_of_recipe
from ..recipes.resolve import task_on_images
from ..registry import build_adapter, build_selector, check_packages
from ..registry.build import judges_at
from ..runs.sections import errors_worded
from ..runtime.files import place_of, write_whole
from ..runtime.progress import Reporter
from ..tasks.classification.prepared import Prepared
from ..tasks.classification.task import on_backbone
from .options import SelectOptions

BUDGET, METHOD, METHOD_OPTIONS = 50, "pcb", {"first": "predicted"}
"""What chooses where nobody says, settled before anything was measured: zero-shot knows classes before any label."""
PROBE = "linear-probe"
"""Whose doubts count where labels are suspected, if nobody names another."""
WRONG_LABELS = "wrong-labels"
ROWS_AT_ONCE = 4096
USED = IMAGE_KEYS | {"templates", "descriptions", "adapter", "adapters", "seed"}
OF_POOLS = USED | {"classes", "split_seed"}


@dataclass
class Selected:
    """What was written, and what is known so far.

    Attributes:
        file: the table of images to label; None where no label looks wrong.
        images: how many it lists; `random` of them are drawn at random.
        method: of the others.
        round: number of the selection, from 1.
        classes: names, in order.
        pool, labelled: images in all, and those with an answer before.
        curve: accuracy on the images drawn at random so far, by the number of labels.
        payoff: what the last doubling of the labels brought, or None.
        skipped: (id, reason) of images that cannot be read.
    """

    __repr__ = in_short

    file: Path | None
    images: int
    random: int
    method: str
    round: int
    classes: tuple[str, ...]
    pool: int
    labelled: int
    curve: list[CurvePoint] = field(default_factory=list)
    payoff: Payoff | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@keywords(SelectOptions)
@errors_worded(words_of_recipe)
def select(
    recipe: Recipe,
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Selected:
    """Write the next images to label, for `vladapt label`.

    Images in folders that are called as a class count as labelled; other folders say nothing. The model whose
    predictions count is zero-shot's, and once there are labels the recipe's adapter, fitted on them.

    Args:
        recipe: data, domain, backbone, classes, adapter.
        out: a .csv file.
        given: options of `SelectOptions`.
        options: of the selector.
        backbone: in place of the recipe's: a spec, or `Backbone.from_module`.
        domain: a domain of your own that is not installed as a plug-in.

    Raises:
        ConfigError: fewer than two classes, or a budget above the images that are left. DataError: a label that is no
        class, or nothing readable. CapabilityError: the selector needs predictions that nobody can make.
    """
    out, reporter = Path(out), reporter or Reporter(quiet=True)
    _check_out(out)
    refuse_unused(recipe, OF_POOLS, lambda key: "select does not use it; omit it")
    asked, recipe = options_from(SelectOptions, given, "select"), recipe.with_backbone(backbone)
    budget, method, labelled = BUDGET if asked.budget is None else asked.budget, asked.method, asked.labelled
    if method is None:
        method, options = METHOD, {**METHOD_OPTIONS, **(options or {})}
    selector, task = build_selector(method, **(options or {})), task_on_images(recipe, domain)
    answers, source = read_answers(labelled) if labelled is not None else ([], None)
    classes = _classes(recipe, task, source)
    adapter = _adapter(recipe, recipe.adapter_name or AUTO)
    _check_labels(answers, source, classes, labelled, task)
    if budget < 1:
        raise ConfigError(f"--budget {budget}: give 1 or more")
    pool = read_pool(task.domain, task.name, recipe.data_path, recipe.reading)
    pool = pool_of_classes(pool, classes, by_folders=recipe.data_path != SAMPLE)
    known_ids = {item.id for item in pool.items}
    if answers and not any(answer.id in known_ids for answer in answers):
        raise DataError(f"--labelled {labelled}: none of its images is in {recipe.data_path}; give its own data")
    hashes = FileHashes()
    pool = readable_samples(pool, reporter, recipe.workers, hashes)
    prepared = on_backbone(recipe, task, pool, reporter)
    rows = _Rows(prepared, answers, adapter, recipe.seed)
    if rows.several and selector.by_predictions:
        raise CapabilityError(
            f"--method {method}: chooses among single labels, but {labelled} gives several per image; use random or "
            "coreset"
        )
    pool_and_labels = Known(
        rows.items,
        rows.features.unit,
        rows.labels,
        rows.random,
        links_of(prepared.data.with_items(rows.items), hashes),
        len(classes),
        rows.probabilities,
    )
    chosen = choose_round(pool_and_labels, selector, budget, seed=recipe.seed, split_seed=recipe.split_seed)
    number = max((answer.round for answer in answers), default=0) + 1
    source = _source(recipe, task, classes, out, labelled=False)
    write_whole(out, todo_text(_todo(rows, chosen, method, number, recipe.seed), source))
    curve = rows.curve()
    return Selected(
        out,
        budget,
        len(chosen.random),
        method,
        number,
        classes,
        len(rows.items),
        len(rows.labels),
        curve,
        payoff(curve),
        [*pool.notes, *rows.notes],
        [*prepared.data.skipped, *prepared.skipped],
    )


@errors_worded(words_of_recipe)
def select_wrong_labels(
    recipe: Recipe,
    out: str | Path,
    *,
    budget: int | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
) -> Selected:
    """Write the images whose labels look wrong, the most doubtful first, for `vladapt label`.

    Each image is judged by the recipe's adapter, linear-probe by default, fitted on parts of the set without it; which
    labels are wrong, confident learning says (`core/labelling/wrong_labels.py`).

    Args:
        recipe: a labelled set, domain, backbone, adapter.
        out: a .csv file; where no label looks wrong none is written.
        budget: how many at most.

    Raises:
        ConfigError, DataError: as `select`. CapabilityError: several labels per image, or cleanlab is not installed.
    """
    out, reporter = Path(out), reporter or Reporter(quiet=True)
    _check_out(out)
    refuse_unused(recipe, USED, lambda key: "select --wrong-labels does not use it; omit it")
    if budget is not None and budget < 1:
        raise ConfigError(f"--budget {budget}: give 1 or more, or omit it for all")
    if "root" in recipe.reading:
        raise ConfigError("--root: the list of suspects cannot store it; put the table beside its images")
    require_cleanlab()
    task = task_on_images(recipe, domain)
    adapter = _adapter(recipe, recipe.adapter_name or PROBE)
    data = read_data(recipe, task.domain, task.name)
    if data.kind == "multilabel" or any(item.class_label() is None for item in data.items):
        raise CapabilityError(f"--wrong-labels: {recipe.data_path} needs exactly one label per image")
    data = readable_samples(data, reporter, recipe.workers)
    prepared = on_backbone(recipe, task, data, reporter)
    features = prepared.features(prepared.data.items, "images")

    def fit(support: FeatureSet) -> Callable[[FeatureSet], Tensor]:
        return _fitted(adapter(), support, prepared.classifier, recipe.seed)

    findings, names = Findings({}), prepared.class_names
    labels = JudgedLabels(at=SELECT, labelled=features, fit=fit, seed=recipe.seed)
    notes = findings.add(judges_at(task, SELECT), labels)
    rows = findings[WRONG_LABELS].suspects[:budget]
    if rows:
        write_whole(out, todo_text(rows, _source(recipe, task, names, out, labelled=True)))
    skipped = [*prepared.data.skipped, *prepared.skipped]
    file, count = out if rows else None, len(features)
    return Selected(file, len(rows), 0, adapter().name, 1, names, count, count, notes=notes, skipped=skipped)


class _Rows:
    """The images of a pool with what is known of them: features, labels, and a model's predictions.

    Attributes:
        labels: row -> classes; none where nobody was sure.
        random: rows drawn at random in earlier rounds.
        several: whether an image has several labels; then nothing is predicted.
        probabilities: (N, C), or None.
    """

    def __init__(self, prepared: Prepared, answers: Sequence[Answer], adapter: Callable[[], Adapter], seed: int):
        self.adapter, self.seed, self.classifier = adapter, seed, prepared.classifier
        self._models: dict[tuple[int, ...], Callable[[FeatureSet], Tensor]] = {}
        self.features = prepared.features(prepared.data.items, "the pool")
        self.items = items_of(self.features.ids, prepared.data.items)
        self.class_names, self.notes = prepared.class_names, []
        row_of = {item.id: row for row, item in enumerate(self.items)}
        answer_of = {row_of[answer.id]: answer for answer in answers if answer.id in row_of}
        index = {name: place for place, name in enumerate(self.class_names)}
        self.labels = {row: item.classes() for row, item in enumerate(self.items) if item.classes()}
        self.labels |= {row: tuple(index[name] for name in answer.labels) for row, answer in answer_of.items()}
        self.random = frozenset(row for row, answer in answer_of.items() if answer.drawn == RANDOM)
        self.round = {row: answer_of[row].round if row in answer_of else 0 for row in self.labels}
        self.several = any(len(labels) > 1 for labels in self.labels.values())
        if gone := len(answers) - len(answer_of):
            self.notes.append(f"Labelled images that are no longer in the data, not counted: {gone}.")
        self.probabilities = None if self.several else self._predicted()

    def curve(self) -> list[CurvePoint]:
        """After each round so far: the model of the labels until then, on all images drawn at random."""
        judged = [row for row in sorted(self.random) if len(self.labels[row]) == 1]
        if not judged or self.several:
            return []
        truth = torch.tensor([self.labels[row][0] for row in judged])
        points: dict[int, CurvePoint] = {}
        for number in range(max(self.round.values()) + 1):
            rows = [row for row in self._teaching() if self.round[row] <= number]
            if len(rows) not in points and (logits := self._model(rows)) is not None:
                right = logits(self.features.select(judged)).argmax(dim=1).cpu() == truth
                points[len(rows)] = CurvePoint(len(rows), right)
        return list(points.values())

    def _teaching(self) -> list[int]:
        return sorted(row for row, labels in self.labels.items() if len(labels) == 1 and row not in self.random)

    def _predicted(self) -> Tensor | None:
        model = self._model(self._teaching())
        return None if model is None else model(self.features).softmax(dim=1)

    def _model(self, rows: Sequence[int]) -> Callable[[FeatureSet], Tensor] | None:
        """Rows -> logits, of the adapter fitted on some labelled rows; zero-shot's where that cannot be."""
        key = tuple(rows)
        if rows and key not in self._models:
            labels = torch.tensor([self.labels[row][0] for row in rows], device=self.features.features.device)
            support = replace(self.features.select(list(rows)), labels=labels, class_names=self.class_names)
            try:
                self._models[key] = _fitted(self.adapter(), support, self.classifier, self.seed)
            except CapabilityError as error:
                self.notes.append(f"Zero-shot predicts, because {len(rows)} labels are too few: {error}")
        if key in self._models or not self.classifier.has_texts:
            return self._models.get(key)
        return lambda features: self.classifier.logits(features.unit)


def _fitted(
    adapter: Adapter, support: FeatureSet, classifier: TextClassifier, seed: int
) -> Callable[[FeatureSet], Tensor]:
    """Rows -> logits (n, C), some rows at a time."""
    adapter.fit(support, classifier, seed=seed)

    def logits(features: FeatureSet) -> Tensor:
        parts = torch.arange(len(features), device=features.features.device).split(ROWS_AT_ONCE)
        return torch.cat([adapter.logits(Batch(features.features[part])) for part in parts])

    return logits


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".csv":
        raise ConfigError(f"--out {out}: the images to label are written as .csv")
    place_of(out, "--out")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; create it, or give another file")
    if is_label_file(out):
        raise ConfigError(f"--out {out}: holds labels, which would be lost; give another file")


def _adapter(recipe: Recipe, name: str) -> Callable[[], Adapter]:
    """Makes a method that learns from features alone."""
    options = recipe.with_adapter(name).adapter_options
    made = build_adapter(name, **options)
    further = sorted((made.needs | made.at_predict | made.backbone_needs) - {"features"})
    if further or made.transductive:
        needed = ", ".join(further).replace("_", " ") or "all test images at once"
        raise ConfigError(f"--adapter {name}: needs {needed}; select takes methods that learn from features alone")
    check_packages(name, made.packages)
    return lambda: build_adapter(name, **options)


def _classes(recipe: Recipe, task: Task, source: TableSource | None) -> tuple[str, ...]:
    if recipe.classes is None and source is not None:
        return source.classes
    if recipe.classes is None and recipe.data_path == SAMPLE:
        return tuple(task.domain.sample(task.name).class_names)
    return named_classes(recipe.classes)


def _check_labels(
    answers: Sequence[Answer], source: TableSource | None, classes: Sequence[str], file: str | Path | None, task: Task
) -> None:
    if source is None:
        return
    if source.labelled:
        raise DataError(f"--labelled {file}: corrects labels that the data has; give it to `vladapt fit --data`")
    if source.domain != task.domain.name:
        raise DataError(f"--labelled {file}: made with domain {source.domain}; give --domain {source.domain}")
    for name in (name for answer in answers for name in answer.labels):
        if name not in classes:
            near = did_you_mean(name, classes)
            raise DataError(f"--labelled {file}: label '{shortened(name)}' is not among --classes; {near}")


def _source(recipe: Recipe, task: Task, classes: Sequence[str], out: Path, labelled: bool) -> TableSource:
    path = recipe.data_path
    if path != SAMPLE:
        path = Path(os.path.relpath(Path(path).resolve(), out.resolve().parent)).as_posix()
    reading = {name: value for name, value in recipe.reading.items() if name != "root"}
    return TableSource(path, task.domain.name, task.name, tuple(classes), reading, labelled)


def _todo(rows: _Rows, chosen: Round, method: str, number: int, seed: int) -> list[Todo]:
    """Every fifth row one that was drawn at random, so that whoever stops half way has both kinds."""
    drawn = {**dict.fromkeys(chosen.chosen, method), **dict.fromkeys(chosen.random, RANDOM)}
    if method == RANDOM:
        drawn.update(dict.fromkeys(chosen.chosen, f"{RANDOM} to learn"))
    order, others = [], iter(chosen.chosen)
    for row in sorted(chosen.random, key=lambda row: rows.items[row].rank(seed)):
        order += [*islice(others, EVERY - 1), row]
    made = []
    for row in [*order, *others]:
        guess, confidence = "", None
        if rows.probabilities is not None:
            label = int(rows.probabilities[row].argmax())
            guess, confidence = rows.class_names[label], float(rows.probabilities[row, label])
        made.append(Todo(rows.items[row].id, drawn[row], number, guess, confidence))
    return made
