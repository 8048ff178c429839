"""What every task keeps with the run of a fit: scored again, asked of new images, damaged; and what it compares."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from ..contracts.serving import Serving
from ..contracts.task import Axes
from ..errors import CapabilityError, ConfigError, DataError
from ..runs.folder import Run
from ..runtime.reading import json_text, read_json
from .contract import refusal
from .task_trial import QUIET, TaskTrial

TOLERANCE = 1e-5
GIVEN = {
    "data": "data",
    "features": "features.npz",
    "batch_size": 2,
    "workers": 1,
    "resources": {"boxes": "boxes.json"},
    "classes": "a,b",
    "out": "out",
    "stream": True,
}
"""Fields of `Use`, as a user may give them."""
SAID = ("run", "split", "adapted")
"""What the scores of a run say, at least."""


def it_scores_its_run_as_the_fit_did(trial: TaskTrial) -> Iterator[str]:
    """`evaluate` on the test split; on all images too."""
    if "evaluate" in trial.cls.refusals:
        return
    scores = trial.evaluate(trial.use())
    if lacking := [key for key in SAID if key not in scores]:
        yield f"evaluate() gives no '{lacking[0]}'"
    for place, one, other in _numbers_apart(trial.fitted.metrics["adapted"], scores.get("adapted")):
        yield f"evaluate() gives {other} for {place}, its fit {one}"
    everything = trial.evaluate(trial.use(split="all"))
    if everything.get("split") != "all" or not everything.get("adapted"):
        yield "evaluate() of split 'all' gives no scores of it"
    console = Console(file=io.StringIO(), width=100)
    console.print(trial.new().table(scores))


def it_predicts_new_images(trial: TaskTrial) -> Iterator[str]:
    """A row with its id per image, which JSON holds and a table shows, the same each time; or a refusal of one line."""
    if not trial.predicts:
        return
    predicted = trial.predicted
    rows = predicted.rows()
    if len(rows) != len(trial.images) or len({row.get("id") for row in rows}) != len(rows):
        yield f"predicts {len(rows)} rows for {len(trial.images)} images; give one with its own id per image"
    if predicted.skipped or predicted.files:
        yield f"predicts, and names files {predicted.files} or skipped {predicted.skipped} where there are none"
    json.dumps(rows)
    console = Console(file=io.StringIO(), width=100)
    console.print(trial.new().predictions_table(rows))
    if not console.file.getvalue().strip():
        yield "its table of predictions is empty"
    if trial.predict(trial.images).rows() != rows:
        yield "predicts differently the second time"


def unreadable_images_are_named(trial: TaskTrial) -> Iterator[str]:
    """One that is cut off is listed in `skipped`, and the others are predicted; where none is left, that is said."""
    whole = Path(trial.images[0])
    if not trial.predicts or not whole.is_file():
        return
    cut = trial.folder / f"cut-off{whole.suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 4])
    predicted = trial.predict([cut, *trial.images])
    if len(predicted.rows()) != len(trial.images):
        yield f"beside an image that is cut off it predicts {len(predicted.rows())} of {len(trial.images)} images"
    if not any(cut.name in str(name) for name, _ in predicted.skipped):
        yield "an image that is cut off is not listed in skipped"
    missing = trial.folder / f"missing{whole.suffix}"
    for path, words in ((cut, "only an image that is cut off"), (missing, "a missing image")):
        did, message = refusal(lambda p=path: trial.predict([p]), DataError)
        if did or path.name not in message:
            yield f"given {words}, predict() {did or f'says: {message}'}"


def it_writes_the_files_that_it_says(trial: TaskTrial) -> Iterator[str]:
    """With `--out`: those of `writes`; without any, it is refused, and no folder is made."""
    if not trial.predicts:
        return
    out = trial.folder / "predicted"
    if not trial.cls.writes:
        did, _ = refusal(lambda: trial.predict(trial.images, out=str(out)), CapabilityError, ConfigError)
        if did or out.exists():
            yield f"writes nothing, and given --out it {did or 'makes a folder'}; refuse in one line"
        return
    files = trial.predict(trial.images, out=str(out)).files
    if lacking := [file for file in files if not file.is_file() or not file.is_relative_to(out)]:
        yield f"says that it wrote {lacking[0]}, which is not in the folder"
    there = {file.suffix for file in out.rglob("*") if file.is_file()}
    for suffix in sorted(there ^ set(trial.cls.writes)):
        yield f"with --out it {'writes' if suffix in there else 'does not write'} {suffix} files; say in writes which"


def what_a_command_does_not_take_is_refused(trial: TaskTrial) -> Iterator[str]:
    """Fields of `Use` that at_evaluation and at_prediction do not name, in a line that begins with the flag."""
    task = trial.new()
    taken = {"evaluate": task.at_evaluation, "predict": task.at_prediction}
    for command in sorted(taken.keys() - task.refusals.keys()):
        for key in sorted(GIVEN.keys() - taken[command]):
            use = trial.use(**{key: GIVEN[key]})
            flag = "--resource" if key == "resources" else f"--{key.replace('_', '-')}"
            did, message = refusal(lambda u=use, c=command: task.check_use(u, c), ConfigError)
            if did or not message.startswith(flag):
                yield f"{command} does not take {flag}, and given it check_use() {did or f'says: {message}'}"


def what_it_refuses_it_refuses_in_its_words(trial: TaskTrial) -> Iterator[str]:
    """Each command of `refusals`."""
    task = trial.new()
    use = trial.use(trial.run if trial.keeps_a_run else Run(trial.folder), images=tuple(trial.images))
    calls: dict[str, tuple[Callable[[], Any], ...]] = {
        "evaluate": (lambda: task.evaluate(use, QUIET),),
        "predict": (lambda: task.predict(use, QUIET), lambda: task.predictions_table([])),
        "serve": (lambda: task.served(use, Serving()),),
        "compare": (
            lambda: task.check_axes(Axes(seeds=(1,))),
            lambda: task.entries(trial.recipe(), Axes(seeds=(1,))),
            lambda: task.contest(trial.recipe(), Axes(seeds=(1,)), QUIET),
        ),
    }
    for command, reason in task.refusals.items():
        for call in calls.get(command, ()):
            did, message = refusal(call, CapabilityError, ConfigError)
            if did or reason not in message:
                yield f"refuses to {command}, and asked to it {did or f'says otherwise: {message}'}"


def a_damaged_run_is_refused(trial: TaskTrial) -> Iterator[str]:
    """Weights that are cut off, and those of something else, in a run without digests: one line that names the file."""
    if not trial.keeps_a_run or not load_file(str(trial.run.adapter_path)):
        return
    for name, damage in (("cut off", _cut_off), ("of something else", _of_something_else)):
        folder = trial.folder / f"run {name}"
        shutil.copytree(trial.run.path, folder)
        damage(folder / trial.run.adapter_path.name)
        _without_digests(folder / "run.json")
        damaged = Run.open(folder)
        calls = {"evaluate": lambda r=damaged: trial.evaluate(trial.use(r))}
        if trial.predicts:
            calls["predict"] = lambda r=damaged: trial.predict(trial.images, r)
        for command in sorted(calls.keys() - trial.cls.refusals.keys()):
            did, message = refusal(calls[command], DataError)
            if did or damaged.adapter_path.name not in message:
                yield f"where the weights of its run are {name}, {command} {did or f'says: {message}'}"


def it_compares_what_it_says(trial: TaskTrial) -> Iterator[str]:
    """Fits by the axes of `compares`, which give the number of a fit; other axes are refused."""
    task = trial.new()
    for each in fields(Axes):
        if each.name not in task.compares:
            did, _ = refusal(lambda n=each.name: task.check_axes(Axes(**{n: (1,)})), ConfigError)
            if did:
                yield f"a comparison does not vary {each.name}, and given it check_axes() {did}"
    if not task.compares:
        return
    fitted, recipe = trial.fitted, task.settled(trial.recipe())
    own = {"adapters": recipe.adapter_name, "shots": recipe.shots, "seeds": recipe.seed}
    axes = Axes(**{name: (value,) for name, value in own.items() if name in task.compares and value is not None})
    task.check_axes(axes)
    entries = task.entries(recipe, axes)
    if any(key not in entry for entry in entries for key in (task.method, "shots", "seed")):
        yield f"entries() gives rows without {task.method}, shots or seed"
    with trial.apart():
        rows = [task.contest(recipe, axes, QUIET).score(entries[-1]) for _ in range(2)]
    metric = task.deciding_of(rows)
    for place, one, other in _numbers_apart(rows[0].get(metric), rows[1].get(metric), metric):
        yield f"compared twice, {place} is {one} and {other}"
    for place, one, other in _numbers_apart(fitted.metrics["adapted"].get(metric), rows[0].get(metric), metric):
        yield f"a comparison gives {other} for {place}, a fit {one}"
    if not isinstance(rows[0].get("seconds"), (int, float)):
        yield "a row of its comparison does not say the seconds of the fit"


USE_RULES = (
    it_scores_its_run_as_the_fit_did,
    it_predicts_new_images,
    unreadable_images_are_named,
    it_writes_the_files_that_it_says,
    what_a_command_does_not_take_is_refused,
    what_it_refuses_it_refuses_in_its_words,
    a_damaged_run_is_refused,
    it_compares_what_it_says,
)

# ----------------------------------------------------------------------------------------------------------------------


def _cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _of_something_else(file: Path) -> None:
    save_file({"something.else": torch.zeros(3)}, str(file))


def _without_digests(file: Path) -> None:
    """As older versions wrote run.json: it does not tell by itself that a file is damaged."""
    file.write_text(json_text({**read_json(file), "sha256": {}}), encoding="utf-8")


def _numbers_apart(one: Any, other: Any, place: str = "adapted") -> Iterator[tuple[str, Any, Any]]:
    """Where two scores differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from _numbers_apart(one.get(key), other.get(key), key)
    elif isinstance(one, (int, float)) and isinstance(other, (int, float)):
        if not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield place, one, other
    elif one != other:
        yield place, one, other
