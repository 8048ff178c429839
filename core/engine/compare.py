"""`compare`: methods x shots x seeds on shared data; a table, a CSV written fit by fit, and the curve over shots."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backbones.load import load_backbone
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.families import OFFERED
from ..contracts.options import keywords
from ..contracts.recipe import AUTO, RUNS, Recipe, spec_of
from ..contracts.task import Axes, Contest, Task
from ..data.tables import csv_text
from ..errors import ConfigError, DataError, VladaptError
from ..recipes.asked_for import check_hooks, with_shared_options
from ..recipes.resolve import task_of, tell_default_domain
from ..runs.plots import accuracy_over_shots, score_over_time
from ..runs.redaction import NO_NAME, Redaction, hide
from ..runs.sections import errors_in_words, plural
from ..runtime.distributed import is_main, run_on_all, together
from ..runtime.files import all_or_none, write_whole
from ..runtime.progress import Reporter
from ..runtime.reading import json_text
from .comparison import Comparison
from .front import ImageCost, cost_of

TABLE, FRONT = "compare.csv", "front"
STATE = "compare.json"
"""What is compared, while it is: a stopped comparison goes on from the rows beside it."""


@keywords(Axes)
def compare(
    recipe: Recipe,
    adapters: Sequence[str] | None = None,
    shots: Sequence[int | None] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    backbone: str | Backbone | None = None,
    backbones: Sequence[str | Backbone] | None = None,
    sources: Sequence[Mapping[str, Any]] = (),
    out: str | Path | None = None,
    resume: bool = False,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Comparison:
    """Fit every method at every number of shots and seed, on the same splits.

    Args:
        recipe: the data, backbone and domain; `adapter` options apply to the adapter the recipe names or, where it
            names none, to every method that has them; `adapters` holds options of any by name.
        adapters: names of methods; zero-shot is added, once, as a baseline.
        shots: numbers of labelled images per class; by default what the task compares.
        seeds: seeds of the draws; by default 1, 2, 3.
        backbone: in place of the recipe's: a spec, or `Backbone.from_module`.
        backbones: several, each with all methods.
        sources: several data sets in place of the recipe's: {"data": path} or {"features": file}.
        out: folder for the CSV and the plot; by default `runs/<time>-compare`.
        resume: continue from the rows that a stopped comparison left in `out`.
        domain: a domain of your own that is not installed as a plug-in.
        given: what else a comparison varies, of `Axes`.

    Raises:
        UnknownNameError: a method's name. DataError, ConfigError: as in `fit`.
    """
    specs = None if backbones is None else [spec_of(each) for each in backbones]
    asked = {"adapters": adapters, "shots": shots, "seeds": seeds, "backbones": specs, **given}
    varied: dict[str, Any] = {
        name: value if value is None or isinstance(value, int) else tuple(value) for name, value in asked.items()
    }
    axes = Axes(**varied)
    _check(axes)
    if resume and not out:
        raise ConfigError("--resume: give --out, the folder of the comparison that was stopped")
    if len(sources) > 1 and recipe.preset not in (AUTO, Domain.NO_PRESET):
        raise ConfigError(f"--preset {recipe.preset}: belongs to one data set; give one --data, or omit --preset")
    if axes.adapters:
        recipe = with_shared_options(recipe, axes.adapters)
    recipe = recipe.with_backbone(backbone)
    check_hooks(recipe, axes.adapters or ())
    on = [_on_source(recipe, source) for source in sources] or [recipe]
    task = task_of(on[0], domain)
    task.check_axes(axes)
    reporter = reporter or Reporter(quiet=True)
    tell_default_domain(on[0], task, reporter)
    folder = folder_of(out)
    sets = _sets(task, on, axes)
    with errors_in_words(task, recipe.reading):
        return together(lambda: _compare(task, axes, sets, folder, resume, reporter))


def folder_of(out: str | Path | None) -> Path:
    """Where a comparison is written."""
    return Path(out) if out else RUNS / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-compare"


@dataclass
class _Set:
    """One data set on one backbone, and what is compared on it."""

    recipe: Recipe
    entries: list[dict[str, Any]]
    backbone: str | None = None
    name: str = ""
    source: str = ""

    def columns(self, several: bool) -> dict[str, Any]:
        """What a row says of its set: the backbone where they vary, the set fitted on where others are tested, the data
        where there are several."""
        columns = {} if self.backbone is None else {"backbone": self.backbone}
        columns |= {"source": self.source} if self.source else {}
        return {**columns, "data": self.name} if several else columns


@dataclass
class _Rows:
    """Rows as they come, in files that are whole after each of them.

    Args:
        order: keys of all fits, as the table has them.
        state: what is compared.
        done: key -> row.
        written: the rows as JSON, each made once: they are written again after each fit.
    """

    folder: Path
    method: str
    order: list[tuple]
    state: dict[str, Any]
    done: dict[tuple, dict[str, Any]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    def open(self, resume: bool) -> None:
        """Read what a stopped comparison left, or mark the folder as being written.

        Raises:
            ConfigError: a stopped comparison lies there and is not to be resumed, or it is another one.
        """
        mark = self.folder / STATE
        if not resume:
            if mark.is_file() and (self.folder / TABLE).is_file():
                raise ConfigError(
                    f"--out {self.folder}: holds a comparison that was stopped; add --resume to continue it, or give "
                    "another folder"
                )
            if is_main():
                with all_or_none(self.folder, [STATE]):
                    self._write_state()
            return
        if not mark.is_file():
            raise ConfigError(f"--resume: {self.folder} holds no comparison that was stopped; omit --resume")
        left = json.loads(mark.read_text(encoding="utf-8"))
        if left["compared"] != self.state:
            raise ConfigError(f"--resume: {self.folder} holds another comparison; give its options, or another --out")
        for key, row in left["rows"]:
            self._take(tuple(key), row)

    def add(self, key: tuple, row: dict[str, Any]) -> None:
        self._take(key, row)
        if is_main():
            self._write_state()
            write_csv(self.sorted(), self.folder / TABLE, self.method)

    def sorted(self, place: int | None = None) -> list[dict[str, Any]]:
        """All rows, or those of one set, in the order of the table."""
        keys = [key for key in self.order if key in self.done and place in (None, key[0])]
        return [self.done[key] for key in keys]

    def finish(self) -> None:
        (self.folder / STATE).unlink(missing_ok=True)

    def _take(self, key: tuple, row: dict[str, Any]) -> None:
        self.done[key] = row
        self.written.append(json_text([list(key), row]))

    def _write_state(self) -> None:
        rows = ", ".join(self.written)
        write_whole(self.folder / STATE, f'{{"compared": {json_text(self.state)}, "rows": [{rows}]}}')


def _compare(task: Task, axes: Axes, sets: list[_Set], folder: Path, resume: bool, reporter: Reporter) -> Comparison:
    rows = _Rows(folder, task.method, [], _state(task, axes, sets))
    run_on_all(lambda: rows.open(resume))
    refused: dict[tuple, str] = {}
    notes: list[str] = []
    skipped: dict[str, str] = {}
    done, several = 0, len({(each.recipe.features, each.recipe.data_path) for each in sets}) > 1
    deciding, settings = set(), []
    baselines: tuple[str, ...] = ()
    test_over_train: dict[str, float] = {}
    paired: list[dict[str, Any]] = []
    contests = task.contests([each.recipe for each in sets], axes, reporter)
    for place, (each, contest) in enumerate(zip(sets, contests)):
        settings.append(contest.setting)  # not the contest, which holds a backbone
        name = NO_NAME if each.recipe.redact else contest.data
        each.name = _name_of(name, [other.name for other in sets[:place] if other.backbone == each.backbone])
        each.source = NO_NAME if contest.source and each.recipe.redact else contest.source
        contest_notes = [hide(note) for note in contest.notes] if each.recipe.redact else contest.notes
        notes += [note for note in contest_notes if note not in notes]
        deciding.add(contest.deciding)
        baselines, test_over_train[each.name if several else ""] = contest.baselines, contest.test_over_train
        entries = _on_splits(contest, each.entries)
        rows.order += [_key(place, task, entry) for entry in _in_order(task, entries)]
        total = done + len(entries) + sum(len(other.entries) for other in sets[place + 1 :])
        earlier = any(_key(place, task, entry) in rows.done for entry in entries)
        with reporter.task(f"Comparing on {each.name}", unit="fits") as progress:
            for entry in entries:
                key = _key(place, task, entry)
                if key not in rows.done and (row := _scored(contest, entry, key[:3], refused)) is not None:
                    rows.add(key, {**entry, **row, **each.columns(several)})
                done += 1
                progress(done, total)
        names = Redaction((), contest.left_out()) if each.recipe.redact else None
        skipped |= contest.left_out() if names is None else names.pairs(contest.left_out())
        contest_tests = contest.judged(entries)
        if contest_tests and earlier:
            notes.append(
                f"{each.name}: no tests against the best baseline, because fits made before --resume keep no answers"
            )
        else:
            paired += [{**of, "data": "", **each.columns(several)} for of in contest_tests]
    if not rows.done:
        raise DataError(f"nothing could be compared: {next(iter(refused.values()))}")
    metric = task.deciding_of(rows.sorted())
    metric = "balanced_accuracy" if metric == "accuracy" and "balanced_accuracy" in deciding else metric
    plots = _plotted(rows, sets, several, metric, task) if is_main() else [folder]
    means, refusals = task.published_means(settings, rows.sorted()), _told(refused, rows, sets)
    costs = _costs(sets, reporter) if len(axes.backbones or ()) > 1 and is_main() else {}
    files = (folder / TABLE, plots[0], refusals, notes)
    made = Comparison(
        rows.sorted(),
        *files,
        method=task.method,
        metric=metric,
        baselines=baselines,
        test_over_train=test_over_train,
        paired=paired,
        published_means=means,
        skipped=list(skipped.items()),
        costs=costs,
    )
    if shown := made.front():
        with all_or_none(folder, [f"{FRONT}{suffix}" for suffix in (".png", ".svg")]):
            score_over_time(shown, folder / FRONT, metric)
    return made


def _costs(sets: Sequence[_Set], reporter: Reporter) -> dict[str, ImageCost]:
    """Backbone -> what its image tower costs."""
    recipes = {each.backbone: each.recipe for each in sets if each.backbone is not None and not each.recipe.features}
    costs: dict[str, ImageCost] = {}
    with reporter.task("Timing image towers", unit="backbones") as progress:
        for number, (spec, recipe) in enumerate(recipes.items(), 1):
            costs[spec] = cost_of(load_backbone(spec, recipe.device, recipe.image_size))
            progress(number, len(recipes))
    return costs


def _on_splits(contest: Contest, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries on one split after the other; as they are where there is one."""
    if contest.splits == 1:
        return list(entries)
    on = [contest.of_split(entry, split) for split in range(contest.splits) for entry in entries]
    return [entry for entry in on if entry is not None]


def _scored(contest: Contest, entry: Mapping[str, Any], key: tuple, refused: dict[tuple, str]) -> dict[str, Any] | None:
    """A row's metrics, or None where the method refuses this set at this number of shots, which is asked once.

    Args:
        key: (place of the set, method, shots).
    """
    if key in refused:
        return None
    try:
        return contest.score(entry)
    except VladaptError as error:
        refused[key] = str(error)
        return None


def _told(refused: Mapping[tuple, str], rows: _Rows, sets: Sequence[_Set]) -> dict[str, str]:
    """Method -> why it did not run and, where it ran elsewhere, on what it did not."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for (place, name, shots), reason in refused.items():
        where = [sets[place].name] if len(sets) > 1 else []
        where += [] if shots is None else [plural(shots, "shot")]
        reasons.setdefault(name, {}).setdefault(reason, []).append(" at ".join(where))
    ran = {key[1] for key in rows.done}
    return {
        name: "; ".join(f"{reason} ({', '.join(where)})" if name in ran else reason for reason, where in why.items())
        for name, why in reasons.items()
    }


def _plotted(rows: _Rows, sets: list[_Set], several: bool, metric: str, task: Task) -> list[Path]:
    """A plot per set; returns the PNGs."""
    stem = "accuracy_over_shots"
    stems = {place: f"{stem}-{_plain(each, several)}" if len(sets) > 1 else stem for place, each in enumerate(sets)}
    with all_or_none(rows.folder, [f"{name}{suffix}" for name in stems.values() for suffix in (".png", ".svg")]):
        for place, name in stems.items():
            accuracy_over_shots(rows.sorted(place), rows.folder / name, metric, task.method, task.shot)
    rows.finish()
    return [rows.folder / f"{name}.png" for name in stems.values()]


def _plain(each: _Set, several: bool) -> str:
    """A set as part of a file's name."""
    words = [str(value) for key, value in each.columns(several).items() if key != "source"]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join(words))


def _on_source(recipe: Recipe, source: Mapping[str, Any]) -> Recipe:
    """The recipe on another data set, which then counts as given."""
    key = "features" if source.get("features") else "data.path"
    return recipe.with_source(**source).with_(given=recipe.given | {key})


def _sets(task: Task, recipes: Sequence[Recipe], axes: Axes) -> list[_Set]:
    """Every data set on every backbone, each with its settled recipe."""
    sets = []
    for on in recipes:
        for spec in axes.backbones or (None,):
            settled = task.settled(on.with_backbone(spec).with_(custom_hooks=[])).with_(custom_hooks=on.custom_hooks)
            sets.append(_Set(settled, task.entries(settled, axes), spec))
    return sets


def _key(place: int, task: Task, entry: Mapping[str, Any]) -> tuple:
    return (place, entry[task.method], entry["shots"], entry["seed"], entry.get("split", 0), entry.get("tasks", ""))


def _in_order(task: Task, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By method as named, then shots, then split and seed."""
    methods = list(dict.fromkeys(entry[task.method] for entry in entries))

    def place(entry: Mapping[str, Any]) -> tuple:
        shots = math.inf if entry["shots"] is None else entry["shots"]
        return methods.index(entry[task.method]), shots, entry.get("split", 0), entry["seed"]

    return sorted(entries, key=place)


def _name_of(name: str, taken: Sequence[str]) -> str:
    while name in taken:  # two folders of one name
        name += "+"
    return name


def _state(task: Task, axes: Axes, sets: list[_Set]) -> dict[str, Any]:
    """What says that two comparisons are the same."""
    left_out = ("out", "resume", "workers", "tolerate", "given", "device")
    recipes = [{k: v for k, v in each.recipe.to_dict().items() if k not in left_out} for each in sets]
    own = {each.recipe.backbone for each in sets} & OFFERED.keys()
    modules = {"modules": {spec: OFFERED[spec].fingerprint for spec in own}} if own else {}
    return json.loads(json.dumps({"task": task.name, "axes": vars(axes), "recipes": recipes, **modules}, default=str))


def _check(axes: Axes) -> None:
    for option, values, least in (("--shots", axes.shots, 0), ("--seeds", axes.seeds, 0)):
        if values is not None and (not values or min((v for v in values if v is not None), default=least) < least):
            listed = ",".join(map(str, values)) or "(none)"
            raise ConfigError(f"{option} {listed}: give whole numbers of {least} or more, comma-separated")
    if axes.splits is not None and axes.folds is not None:
        raise ConfigError("--splits and --folds: give one of them")
    for option, count, least in (("--splits", axes.splits, 1), ("--folds", axes.folds, 2), ("--tasks", axes.tasks, 1)):
        if count is not None and count < least:
            raise ConfigError(f"{option} {count}: give a whole number of {least} or more")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path, method: str = "adapter") -> Path:
    """One row per fit: method, shots, seed, split where there are several, accuracy, the other metrics; the data set
    last where there are several."""
    split = ["split"] if any("split" in row for row in rows) else []
    kinds = ["tasks"] if any("tasks" in row for row in rows) else []
    first = [method, "shots", "seed", *split, *kinds, *(["accuracy"] if any("accuracy" in row for row in rows) else [])]
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    columns.sort(key="data".__eq__)
    write_whole(path, csv_text(columns, ([row.get(name, "") for name in columns] for row in rows)))
    return path
