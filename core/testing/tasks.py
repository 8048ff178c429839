"""What every task keeps, as functions that anyone can run on one of their own: what it says of itself, and its fit."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from errno import ENOSPC
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console

from ..contracts.domain import Domain
from ..contracts.options import options_of
from ..contracts.recipe import GROUPS, KEYS, as_flag
from ..contracts.task import ALWAYS, Axes, Task, Use
from ..errors import ConfigError, DataError, UnknownNameError
from ..runs.folder import Run
from ..training.samples import seed_everything
from .contract import NAME, Check, checks_of, differences, refusal, violations
from .options import OPTION_RULES, Options
from .task_trial import TaskTrial
from .task_use import USE_RULES

COMMANDS = ("evaluate", "predict", "compare", "export", "serve")
FILES = ("run.json", "metrics.json", "log.txt", "report.html")
ELSEWHERE = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""")
"""In a page: something that has to be fetched."""
NO_SUCH = "no_such_option"


def check_task(
    cls: type[Task],
    domain: Domain | None = None,
    *,
    images: Sequence[str | Path] = (),
    raises: bool = True,
    **keys: Any,
) -> list[str]:
    """Hold a task to the contract of `Task`, by a fit on the sample of a domain and what can be done with its run.

    Args:
        cls: the class of a task.
        domain: the domain that it is done in; None for a task that needs none.
        images, keys: as for `task_checks`.
        raises: raise where it breaks a rule; else the lines are returned.

    Returns:
        A line per violated rule: "task 'x': evaluate() gives 0.5 for accuracy, its fit 0.6".

    Raises:
        ContractError: an AssertionError with those lines.
        Unchecked: a CapabilityError: the task takes a backbone, and the extra open-clip is not installed.
    """
    return violations(task_checks(cls, domain, images=images, **keys), raises)


def task_checks(
    cls: type[Task],
    domain: Domain | None = None,
    *,
    images: Sequence[str | Path] = (),
    **keys: Any,
) -> Iterator[Check]:
    """The same rule by rule: (name, call), for `pytest.mark.parametrize` and its like. A call raises `ContractError`.

    Args:
        cls: the class of a task.
        domain: the domain that it is done in; None for a task that needs none.
        images: files to predict, of a kind that the domain reads; by default two that are drawn.
        keys: that make a fit small, as `vladapt.fit` takes them; by default the sample of the domain, a small backbone
            and the CPU. All in one dictionary, `recipe={...}`, is the former way to give them.
    """
    trial = TaskTrial(cls, domain, {**keys.pop("recipe", {}), **keys}, images)
    if cls.options is not None:
        yield from checks_of(Options(cls.options, trial.title), OPTION_RULES)
    rules = [
        it_says_what_it_is,
        keys_it_does_not_take_are_refused,
        unknown_options_are_refused,
        missing_data_is_refused,
        it_fits_and_scores,
        its_run_holds_what_it_did,
        its_report_stands_alone,
        its_scores_can_be_shown,
        the_seed_fixes_the_numbers,
        a_full_disk_leaves_no_run,
        *USE_RULES,
    ]
    yield from checks_of(trial, rules)


# what it says of itself -----------------------------------------------------------------------------------------------


def it_says_what_it_is(trial: TaskTrial) -> Iterator[str]:
    """A name like that of a file, and names of keys, of fields of `Use` and of `Axes`, of commands and of suffixes."""
    cls = trial.cls
    if not NAME.fullmatch(cls.name):
        yield f"its name is '{cls.name}'; give lower-case words joined by hyphens"
    if trial.domain is not None and cls.name not in trial.domain.task_names:
        yield f"domain '{trial.domain.name}' does not name it in tasks"
    used = {each.name for each in fields(Use)} - {"run", "images", "split", "device"}
    own = set() if cls.options is None else {each.name for each in options_of(cls.options)}
    for name, named, allowed in (
        ("takes", cls.takes, KEYS),
        ("defaults", cls.defaults, KEYS),
        ("at_evaluation", cls.at_evaluation, used),
        ("at_prediction", cls.at_prediction, used),
        ("compares", cls.compares, {each.name for each in fields(Axes)}),
        ("refusals", cls.refusals, COMMANDS),
        ("unused", cls.unused, {*KEYS, *used, *own}),
    ):
        if unknown := sorted(set(named) - set(allowed)):
            yield f"{name} names '{unknown[0]}', which is none of {', '.join(sorted(allowed))}"
    for name, reasons in (("refusals", cls.refusals), ("unused", cls.unused)):
        if several := sorted(key for key, reason in reasons.items() if not reason.strip() or "\n" in reason):
            yield f"{name} gives no single line for '{several[0]}'"
    if wrong := [suffix for suffix in cls.writes if not re.fullmatch(r"\.\w+", suffix)]:
        yield f"writes names '{wrong[0]}'; give suffixes with their dots"
    if cls.writes and "out" not in cls.at_prediction:
        yield "writes files at prediction, and 'out' is not in at_prediction"
    if "compare" in cls.refusals and cls.compares:
        yield "refuses to compare, and names in compares what it varies"


def keys_it_does_not_take_are_refused(trial: TaskTrial) -> Iterator[str]:
    """Given, whatever their values, in a line that names them, before anything is read."""
    for key in sorted(KEYS.keys() - ALWAYS):
        path = f"{key}.{GROUPS.get(key, 'x')}" if isinstance(KEYS[key].default, dict) else key
        recipe = trial.recipe()
        recipe = recipe.with_(given=recipe.given | {path})
        task = trial.new()
        if key in task.taken(task.filled(recipe)):
            continue
        with trial.unread() as read:
            did, message = refusal(lambda r=recipe: trial.new().settled(r), ConfigError)
        if read:
            yield f"does not take '{key}', and given it calls {read[0]}() of the domain first; refuse before"
        if did or not message.startswith(as_flag(path)):
            yield f"does not take '{key}', and given it settled() {did or f'says: {message}'}"


def unknown_options_are_refused(trial: TaskTrial) -> Iterator[str]:
    """In a line that names them, before anything is read."""
    recipe = trial.recipe()
    recipe = recipe.with_(task_options={**recipe.task_options, NO_SUCH: 1})
    with trial.unread() as read:
        did, message = refusal(lambda: trial.new().settled(recipe), ConfigError, UnknownNameError)
    if read:
        yield f"given an option that it does not have, it calls {read[0]}() of the domain first; refuse before"
    if did or NO_SUCH not in message:
        yield f"given an option that it does not have, settled() {did or f'says: {message}'}"


def missing_data_is_refused(trial: TaskTrial) -> Iterator[str]:
    """A path that is not there, in a line that names it; no folder is left behind."""
    recipe = trial.recipe()
    task, keys = trial.new(), {"features": "features"} if recipe.features else {"data": "data.path"}
    taken = task.taken(task.filled(recipe))
    for key, value in keys.items():
        if key not in taken:
            continue
        missing = trial.folder / "missing.npz"
        change = {value: str(missing)}
        did, message = refusal(lambda c=change: trial.fit("refused", **c), DataError, ConfigError)
        if did or missing.name not in message:
            yield f"given {key} that is not there, its fit {did or f'says: {message}'}"
        if _left(trial.folder / "refused"):
            yield f"given {key} that is not there, its fit leaves {_left(trial.folder / 'refused')[0].name}"


# its fit --------------------------------------------------------------------------------------------------------------


def it_fits_and_scores(trial: TaskTrial) -> Iterator[str]:
    """Metrics of the model with the deciding one, which JSON holds, and a summary that says where the run is."""
    result = trial.fitted
    adapted = result.metrics.get("adapted")
    if not isinstance(adapted, Mapping) or not adapted:
        yield "its metrics have no 'adapted' with scores by name"
    else:
        deciding = trial.new().deciding_of([adapted]) if trial.cls.compares else next(iter(adapted))
        value = adapted.get(deciding)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"its deciding metric '{deciding}' is {value}; metrics.json has {', '.join(adapted)}"
    for name, value in (("metrics", result.metrics), ("summary", result.summary), ("notes", result.notes)):
        try:
            json.dumps(value)
        except TypeError as error:
            yield f"JSON cannot hold its {name} ({error})"
    if str(result.summary.get("run")) != str(result.run):
        yield "its summary does not say in 'run' where the run is"
    if not result.report.chosen_on:
        yield "its report does not say what settings were chosen on"


def its_run_holds_what_it_did(trial: TaskTrial) -> Iterator[str]:
    """All files of a run; run.json names domain and task, and has the metrics of the fit."""
    result = trial.fitted
    for name in FILES:
        if not (result.run / name).is_file():
            yield f"its run has no {name}"
    if not trial.keeps_a_run:
        return
    run = Run.open(result.run)
    domain = None if trial.domain is None else trial.domain.name
    for key, expected in (("task", trial.cls.name), ("domain", domain)):
        if run.info[key] != expected:
            yield f"run.json has the {key} '{run.info[key]}', not '{expected}'"
    if run.info.recipe.get("seed") != trial.new().settled(trial.recipe()).seed:
        yield "run.json has another recipe than that of the fit"
    if changed := differences(json.loads(json.dumps(result.metrics)), run.metrics, "metrics"):
        yield f"metrics.json has other {changed[0]} than the fit returns"


def its_report_stands_alone(trial: TaskTrial) -> Iterator[str]:
    """A page with sections, which fetches nothing and runs nothing."""
    page = (trial.fitted.run / "report.html").read_text(encoding="utf-8")
    if "<section>" not in page:
        yield "its report has no sections; write it by write_report() of core/runs/run_sections.py"
    if ELSEWHERE.search(page) or "<script" in page:
        yield "its report fetches or runs something; a page holds all that it shows"


def its_scores_can_be_shown(trial: TaskTrial) -> Iterator[str]:
    """A table for the terminal, and a verdict in words, or an empty text."""
    task, metrics = trial.new(), trial.fitted.metrics
    console = Console(file=io.StringIO(), width=100)
    console.print(task.table(metrics))
    if not console.file.getvalue().strip():
        yield "its table of scores is empty"
    if not isinstance(task.verdict(metrics), str):
        yield f"its verdict is {task.verdict(metrics)!r}; give a sentence, or an empty text"


def the_seed_fixes_the_numbers(trial: TaskTrial) -> Iterator[str]:
    """Whatever state the generators of the process are in; and torch is left as it was."""
    expected = trial.fitted.metrics
    seed_everything(1)
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    again = trial.fit("again")
    after = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    if changed := differences(expected, again.metrics, "metrics"):
        yield f"gives other {changed[0]} with the same seed; draw from generators of its own, seeded by the recipe's"
    if before != after:
        yield "its fit changes settings of torch, and leaves them so"


def a_full_disk_leaves_no_run(trial: TaskTrial) -> Iterator[str]:
    """Where its run cannot be written, a fit says so in one line, and no half of it remains."""
    if not trial.keeps_a_run or not trial.fitted:
        return
    full = OSError(ENOSPC, "No space left on device")
    with mock.patch.object(Run, "write", side_effect=full):
        did, _ = refusal(lambda: trial.fit("full"), DataError)
    if did:
        yield f"on a full disk its fit {did}; write the run in `with Run.create(...) as run`"
    if left := _left(trial.folder / "full"):
        yield f"on a full disk its fit leaves {left[0].name}; write the run in `with Run.create(...) as run`"


# ----------------------------------------------------------------------------------------------------------------------


def _left(out: Path) -> list[Path]:
    """What a fit left there; checkpoints, to go on from, are hidden."""
    return [path for path in sorted(out.glob("*")) if not path.name.startswith(".")] if out.is_dir() else []
