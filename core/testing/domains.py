"""What every domain keeps, as functions that anyone can run on one of their own: names, words, recipes and reading."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..contracts.adapter import Adapter
from ..contracts.domain import Domain, Metric
from ..contracts.options import as_text, options_of
from ..contracts.task import FILE_KINDS, Task
from ..errors import ConfigError, DataError, UnknownNameError, VladaptError, did_you_mean
from ..metrics.classification import classification_metrics
from ..prompts.classifier import check_templates
from ..recipes.resolve import resolve, task_of
from ..registry import build_adapter, build_metric, catalogue, load_domain
from .contract import NAME, Check, checks_of, first_line, refusal, violations
from .domain_trial import DomainTrial
from .options import OPTION_RULES, Options, unusable_values
from .samples import SAMPLE_RULES, image_fault

CLASSES = ("left", "right", "neither")
FEW = 3
"""Files of a set that are read as new images."""


def check_domain(domain: Domain | type[Domain], *, raises: bool = True, **how: Any) -> list[str]:
    """Hold a domain to the contract of `Domain`, on its sample and, where one is given, on a set that it reads.

    Args:
        domain: a domain, or a class that is made without arguments.
        raises: raise where it breaks a rule; else the lines are returned.
        how: as for `domain_checks`.

    Returns:
        A line per violated rule: "domain 'x': its sample has two items called 'a'; an id is unique".

    Raises:
        ContractError: an AssertionError with those lines.
    """
    return violations(domain_checks(domain, **how), raises)


def domain_checks(
    domain: Domain | type[Domain],
    *,
    data: str | Path | None = None,
    reading: Mapping[str, Any] | None = None,
    task: str | None = None,
    sample: bool = True,
) -> Iterator[Check]:
    """The same rule by rule: (name, call), for `pytest.mark.parametrize` and its like. A call raises `ContractError`.

    Args:
        domain: a domain, or a class that is made without arguments.
        data: a small set of a kind that it reads, labelled; some rules need files that can be copied and damaged.
        reading: options of its reader for that set.
        task: that the set is of; by default it is read for each of the domain's tasks.
        sample: hold its sample to the rules too; of many sets only the first needs that.
    """
    trial = DomainTrial(domain, data, reading, task, sample)
    yield from checks_of(Options(trial.domain.reading, trial.title), OPTION_RULES)
    rules = [
        it_says_what_it_is,
        its_name_is_its_own,
        what_it_names_exists,
        its_metrics_are_numbers,
        its_own_files_are_of_its_tasks,
        its_templates_hold_the_class_name,
        its_recipes_resolve,
        what_is_not_there_is_refused,
        wrong_options_are_refused_before_reading,
        *SAMPLE_RULES,
    ]
    if data is not None:
        rules += [an_unreadable_file_is_left_out, new_images_are_read_without_labels]
    yield from checks_of(trial, rules)


# names and words ------------------------------------------------------------------------------------------------------


def it_says_what_it_is(trial: DomainTrial) -> Iterator[str]:
    """A name like that of a folder, and tasks."""
    domain = trial.domain
    if not NAME.fullmatch(domain.name):
        yield f"its name is '{domain.name}'; give lower-case words joined by hyphens"
    if not domain.tasks:
        yield "has no task; name one in tasks"
    if len(set(domain.task_names)) < len(domain.task_names):
        yield "names a task twice"


def its_name_is_its_own(trial: DomainTrial) -> Iterator[str]:
    """No other installed domain has it."""
    entry = catalogue.domains().get(trial.domain.name)
    if entry is not None and type(load_domain(trial.domain.name)) is not type(trial.domain):
        yield f"its name is that of {entry.origin}; choose another"


def what_it_names_exists(trial: DomainTrial) -> Iterator[str]:
    """Tasks, the default adapter and metrics: names that are installed, or classes."""
    domain = trial.domain
    for kind, base, named, installed in (
        ("task", Task, domain.tasks, catalogue.tasks()),
        ("adapter", Adapter, (domain.default_adapter,), catalogue.adapters()),
        ("metric", Metric, domain.metrics, catalogue.metrics()),
    ):
        for each in named:
            if isinstance(each, type):
                if not issubclass(each, base):
                    yield f"names {each.__name__} as a {kind}, which is not a {base.__name__}"
            elif each not in installed:
                yield f"names the {kind} '{each}', which is not installed; {did_you_mean(each, installed)}"


def its_own_files_are_of_its_tasks(trial: DomainTrial) -> Iterator[str]:
    """Suffixes in lower case that no file of rows has, and the means to write them."""
    domain = trial.domain
    for task, suffixes in domain.own_files.items():
        if task not in domain.task_names:
            yield f"has own_files of the task '{task}', which it does not have"
        if wrong := [each for each in suffixes if not re.fullmatch(r"\.[a-z0-9]+", each) or each in FILE_KINDS]:
            yield f"names '{wrong[0]}' in own_files; give suffixes in lower case, other than {', '.join(FILE_KINDS)}"
    if domain.own_files and type(domain).write_own is Domain.write_own:
        yield "names files of its own and has no write_own"


def its_metrics_are_numbers(trial: DomainTrial) -> Iterator[str]:
    """Finite ones, of one label per image and, of a metric that says so, of several with unknown ones."""
    for each in trial.domain.metrics:
        metric = build_metric(each)
        for labels, words in _labels_for(metric):
            logits = torch.randn(len(labels), len(CLASSES), generator=torch.Generator().manual_seed(0))
            before = logits.clone()
            values = metric.values(logits, labels, CLASSES)
            usual = classification_metrics(logits, labels, len(CLASSES)).keys() if labels.ndim == 1 else set()
            for name, value in values.items():
                if not torch.isfinite(torch.tensor(value)):
                    yield f"its metric '{name}' is {value} {words}; give a finite number"
                if name in usual:
                    yield f"its metric '{name}' has the name of a usual one; give it another"
            if not torch.equal(logits, before):
                yield f"its metric '{metric.name}' changes the logits; work on a copy"


def its_templates_hold_the_class_name(trial: DomainTrial) -> Iterator[str]:
    """`templates` and `negative_templates`, for each task: some texts with {} in them, each once."""
    domain = trial.domain
    for task in domain.task_names:
        for name, of_task in (("templates", domain.templates), ("negative_templates", domain.negative_templates)):
            templates = of_task(task)
            if not isinstance(templates, (list, tuple)) or not templates:
                yield f"its {name} of {task} are {templates!r}; give a list of texts"
                continue
            try:
                check_templates(templates)
            except ConfigError as error:
                yield f"its {name} of {task}: {first_line(error)}"
            if len(set(templates)) < len(templates):
                yield f"its {name} of {task} hold a text twice"


def its_recipes_resolve(trial: DomainTrial) -> Iterator[str]:
    """Each has a line that says what it is, and gives keys, options of the reader and of the adapter that there are."""
    domain = trial.domain
    for name, path in domain.recipes.items():
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"its recipe '{name}' has no docstring; say in a line what it is"
        try:
            recipe = resolve(config=path, domain=domain, flags={"out": "run"})
            if recipe.domain not in (None, domain.name):
                yield f"its recipe '{name}' is of domain '{recipe.domain}'"
            settled = task_of(recipe, domain).settled(recipe)
            domain.reading_of(settled.reading)
            if settled.adapter_name is not None:
                build_adapter(settled.adapter_name, **settled.adapter_options)
        except VladaptError as error:
            yield f"its recipe '{name}' does not resolve: {first_line(error)}"


# reading --------------------------------------------------------------------------------------------------------------


def what_is_not_there_is_refused(trial: DomainTrial) -> Iterator[str]:
    """A missing path, an empty folder and a file of no known kind: one line that names them."""
    missing, empty, odd = (trial.folder / name for name in ("missing", "empty", "file.odd"))
    empty.mkdir(exist_ok=True)
    odd.write_bytes(b"\0\1\2\3")
    for task in trial.domain.task_names:
        for path, words in ((missing, "a missing path"), (empty, "an empty folder"), (odd, "a file of no known kind")):
            did, message = refusal(lambda p=path, t=task: trial.domain.read(p, t), DataError)
            if did or path.name not in message:
                yield f"given {words}, read() {did or 'does not name it'}; raise the DataError of one line"
    did, message = refusal(lambda: trial.domain.read_images([missing]), DataError)
    own = did != "raises nothing" or trial.domain.read_images([missing]) is not None
    if own and (did or missing.name not in message):
        yield f"given a missing path, read_images() {did or 'does not name it'}; raise the DataError of one line"


def wrong_options_are_refused_before_reading(trial: DomainTrial) -> Iterator[str]:
    """An option that the reader does not have, and a value that one cannot have, though there is nothing to read."""
    domain, missing = trial.domain, trial.folder / "missing"
    options = options_of(domain.reading)
    wrong: list[tuple[str, Any, type[ConfigError]]] = [(f"{options[0].name}x" if options else "x", 1, UnknownNameError)]
    wrong += [(each.name, value, ConfigError) for each in options for value in unusable_values(each)[:1]]
    for task in domain.task_names:
        for name, value, kind in wrong:
            did, message = refusal(lambda t=task, o=name, v=value: domain.read(missing, t, **{o: v}), kind)
            if did or name not in message:
                yield (
                    f"given {name}={as_text(value)}, read() {did or 'does not name it'}; read options by "
                    "self.reading_of(options) before anything else"
                )


def an_unreadable_file_is_left_out(trial: DomainTrial) -> Iterator[str]:
    """Cut off, a file is skipped with a reason, or its image is refused, or the set is, in a line that names it."""
    copied = trial.folder / "damaged" / trial.path.name
    copied.parent.mkdir(exist_ok=True)
    shutil.copytree(trial.path, copied) if trial.path.is_dir() else shutil.copy(trial.path, copied)
    task = trial.task
    sources = {item.source for item in trial.read(copied, task).items}
    file = min((source for source in sources if source.resolve().is_relative_to(copied.resolve())), default=None)
    if file is None:
        return
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 4])
    try:
        data = trial.read(copied, task)
    except DataError as error:
        if file.name not in str(error):
            yield f"does not name a damaged file: {first_line(error)}"
        return
    items = [item for item in data.items if item.source == file]
    if not items and not any(file.name in name for name, _ in data.skipped):
        yield "leaves a damaged file out and does not list it in skipped"
    for item in items:
        did, _ = refusal(lambda i=item: data.load(i), DataError)
        if did:
            yield f"load() of an image in a damaged file {did}; raise the DataError of one line"


def new_images_are_read_without_labels(trial: DomainTrial) -> Iterator[str]:
    """`read_images` of files of the set: items with other ids, which decode and have no target."""
    task = trial.task
    files = sorted({item.source for item in trial.read(trial.path, task).items})[:FEW]
    data = trial.domain.read_images(files, **trial.reading)
    if data is None:
        return
    if not data.items:
        yield "read_images() of files of its own set gives no items"
    if len({item.id for item in data.items}) < len(data.items):
        yield "read_images() gives two items of one id"
    for item in data.items[:FEW]:
        if item.target is not None:
            yield f"read_images() gives item '{item.id}' a target; nothing is known of new images"
        if fault := image_fault(data.load(item), trial.channels):
            yield f"item '{item.id}' of read_images() decodes to {fault}"


# ----------------------------------------------------------------------------------------------------------------------


def _labels_for(metric: Metric) -> Iterator[tuple[torch.Tensor, str]]:
    """Labels of nine images, as a metric takes them."""
    yield torch.arange(9) % len(CLASSES), "where images have one label"
    if metric.multilabel:
        several = (torch.arange(27).reshape(9, len(CLASSES)) % 2).float()
        several[0, 0] = float("nan")
        yield several, "where images have several labels"
