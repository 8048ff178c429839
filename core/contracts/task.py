"""What is done with a data set: classify it, find things in it, search it. Commands look a task up and call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import CapabilityError, ConfigError
from .options import as_text, chosen, option
from .recipe import Recipe, as_flag
from .shown import in_short
from .use import ROWS, USED, Use

if TYPE_CHECKING:
    from ..runtime.progress import Reporter
    from .adapter import Adapter, FitReport
    from .domain import Domain
    from .judgement import Evaluated, Judged
    from .serving import Served, Serving
    from .use import Exported, ExportWishes

ALWAYS = frozenset({"domain", "task", "out", "device", "seed", "split_seed", "workers", "tolerate"})
"""Recipe keys that every task takes."""
COMPARED = "Compared"
"""Heading of the flags of what a comparison varies."""
FILE_KINDS = (".csv", ".jsonl", ".html")
"""Suffixes of files of rows; any other place is a folder."""


@dataclass
class FitResult:
    """What a fit made.

    Attributes:
        run: the run folder.
        adapter: the fitted adapter; None where a task trains something else.
        report: what the fit chose.
        metrics: as in metrics.json.
        summary: the object `vladapt fit --json` prints.
        notes: sentences for the user.
        skipped: (image, reason) of what could not be read and was left out.
        encoded, from_store: images the backbone ran on, and images whose features were there already.
        task: the task that was run, which shows the metrics.
    """

    __repr__ = in_short

    run: Path
    adapter: Adapter | None
    report: FitReport
    metrics: dict[str, Any]
    summary: dict[str, Any]
    notes: list[str]
    skipped: list[tuple[str, str]]
    encoded: int = 0
    from_store: int = 0
    task: Task | None = None


@dataclass(frozen=True)
class Axes:
    """What a comparison varies; None was not given."""

    adapters: tuple[str, ...] | None = option(
        None, "methods, comma-separated; zero-shot is always added, as a baseline", metavar="NAMES", group=COMPARED
    )
    recipes: tuple[str, ...] | None = option(
        None,
        "packaged recipes or config files, comma-separated, for tasks that train a config (detection, ...)",
        metavar="NAMES",
        group=COMPARED,
    )
    backbones: tuple[str, ...] | None = option(
        None, "backbones, comma-separated, each with all methods", metavar="SPECS", group=COMPARED
    )
    shots: tuple[int | None, ...] | None = option(
        None,
        "labelled images per class, or all, comma-separated; by default 1,2,4,8,16, or all for a config",
        metavar="N,N",
        group=COMPARED,
    )
    seeds: tuple[int, ...] | None = option(
        None,
        "seeds, comma-separated; by default 1,2,3, or one for each of several splits",
        metavar="N,N",
        group=COMPARED,
    )
    splits: int | None = option(
        None,
        "split the data N times into train, val and test, to show the spread over test sets; by default 10 where there "
        "are fewer than 300 test images (3 where towers are trained), else 1. Splits that the data bring are kept",
        metavar="N",
        group=COMPARED,
    )
    folds: int | None = option(
        None,
        "k-fold splits instead: each image is in one of the K test sets",
        metavar="K",
        group=COMPARED,
    )
    tasks: int | None = option(
        None,
        "number of tasks of each kind under --protocol transductive; by default as published",
        metavar="N",
        group=COMPARED,
    )


@dataclass
class Contest(ABC):
    """One comparison on one data set, fit by fit.

    Attributes:
        data: name of the data set.
        notes: sentences for the user.
        splits: how many splits of the data it is fought on; entries then have "split", from 0.
        test_over_train: test images of a split divided by all its others.
        deciding: the metric that this data set wants, or "" for that of the task.
        baselines: methods that the others are compared with.
        source: the data set on which its fits were made, where that is another one or others are tested too; else "".
        setting: what its numbers are of, by which `Task.published_means` finds published ones; None for none.
    """

    data: str
    notes: list[str] = field(default_factory=list)
    splits: int = 1
    test_over_train: float = 0.0
    deciding: str = ""
    baselines: tuple[str, ...] = ()
    source: str = ""
    setting: Any = None

    def of_split(self, entry: Mapping[str, Any], split: int) -> dict[str, Any]:
        """An entry of `Task.entries` as it is run on one of several splits."""
        return {**entry, "split": split}

    def left_out(self) -> Sequence[tuple[str, str]]:
        """(name, reason) of what could not be read."""
        return ()

    def judged(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Paired tests on one test set, after all entries are scored: of each method against the best baseline the
        method, "shots", "baseline", "metric", "difference", "interval", "p_value", "p_holm" and "test_images"."""
        return []

    @abstractmethod
    def score(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Fit and score one entry of `Task.entries`.

        Returns:
            Metrics by name, "seconds" of the fit, and columns that differ from the entry's; None where the entry is
            left out, which needs no word.

        Raises:
            VladaptError: this method cannot be run on this data; it is then refused for all its entries.
        """


class Task(ABC):
    """Base of all tasks. One is made for each command, with the domain it is done in.

    Class attributes a task sets:
        takes: recipe keys it takes, besides `ALWAYS`. A given key that is not taken is refused, whatever its value.
        options: a dataclass of options of its own (`option` fields), which become further keys, or None.
        defaults: recipe key -> value, where neither the user nor the domain says.
        at_evaluation, at_prediction: fields of `Use` it takes there, besides the run, images, split and device.
        judgements: names of what is said of its fits besides their scores, of its predictions and of its data, in the
            order in which they are made.
        judges: the kinds of what it gives to be judged, of which judgements of other packages must be.
        compares: fields of `Axes` that a comparison may vary; empty where there is none.
        method: the column of a comparison that names what is compared.
        deciding: the metric a comparison is about.
        shot: what a shot is, on the axis of a comparison's plot.
        refusals: command ("evaluate", "predict", "compare", "export", "serve") -> why there is none.
        unused: recipe key -> why it is not taken, or what to give instead; for the message.
        words: what its samples are called in place of images, over `Domain.words`.
        packages: package that it imports -> the extra of this project that brings it, looked for before a fit starts.
        writes: suffixes of the files that `predict --out` writes into a folder; empty where it writes none.
        row_files: suffixes of files of rows that `predict --out` writes, of `FILE_KINDS`.
        gives: what kinds of output may be made of (`core/contracts/output_kind.py`).
        needs_domain: whether a domain must read the data; of classification a features file will do.
        data_of: the task whose data it takes: a domain that has that one has this one too; "" where it must list it.

    Args:
        domain: the domain, or None where there is none (a features file, plain files of pairs).
    """

    name: ClassVar[str] = ""
    takes: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[type | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}
    at_evaluation: ClassVar[frozenset[str]] = frozenset({"data", "workers"})
    at_prediction: ClassVar[frozenset[str]] = frozenset()
    judgements: ClassVar[tuple[str, ...]] = ()
    judges: ClassVar[tuple[type[Judged], ...]] = ()
    compares: ClassVar[frozenset[str]] = frozenset()
    method: ClassVar[str] = "adapter"
    deciding: ClassVar[str] = "accuracy"
    shot: ClassVar[str] = "labelled images per class"
    refusals: ClassVar[Mapping[str, str]] = {}
    unused: ClassVar[Mapping[str, str]] = {}
    words: ClassVar[Mapping[str, str]] = {}
    packages: ClassVar[Mapping[str, str]] = {}
    writes: ClassVar[tuple[str, ...]] = ()
    row_files: ClassVar[tuple[str, ...]] = (".jsonl",)
    gives: ClassVar[frozenset[str]] = frozenset({ROWS})
    needs_domain: ClassVar[bool] = True
    data_of: ClassVar[str] = ""

    def __init__(self, domain: Domain | None = None):
        self.domain = domain

    @classmethod
    def check_domain(cls, domain: Domain) -> None:
        """Raise the ConfigError of a domain that has no data for a task that names those of another (`data_of`)."""
        domain.check_task(cls.data_of)

    @property
    def title(self) -> str:
        """For messages: "classification of domain 'medical'"."""
        return f"{self.name} of domain '{self.domain.name}'" if self.domain is not None else self.name

    # the recipe ------------------------------------------------------------------------------------------------------

    def settled(self, recipe: Recipe) -> Recipe:
        """The recipe as this task runs it: unused keys refused, the rest filled by the domain, then by the task.

        Raises:
            ConfigError: a given key that is not taken. UnknownNameError: an option that the task does not have.
        """
        domain = recipe.domain or (None if self.domain is None else self.domain.name)
        recipe = recipe.with_(domain=domain, task=self.name, task_options=self._task_options(recipe.task_options))
        recipe = self.filled(recipe)
        refuse_unused(recipe, self.taken(recipe) | ALWAYS, self._why_unused)
        self.check(recipe)
        return recipe

    def filled(self, recipe: Recipe) -> Recipe:
        """Defaults where nothing was given."""
        return recipe.with_(**{key: value for key, value in self.defaults.items() if not recipe.gave(key)})

    def taken(self, recipe: Recipe) -> frozenset[str]:
        """Keys that this recipe's fit takes; `takes`, unless one key rules out another."""
        return self.takes

    def check(self, recipe: Recipe) -> None:
        """Raise what can be told before anything is read."""

    # the commands ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        """Train, score and write a run; None on all ranks but the first.

        Args:
            recipe: settled.
        """

    def planned(self, recipe: Recipe, reporter: Reporter) -> Mapping[str, Any]:
        """What a fit would train, as JSON-able facts by name; it trains nothing.

        Args:
            recipe: settled.
        """
        raise CapabilityError(f"--plan: {self.title} computes no settings before it trains; omit it")

    def evaluate(self, use: Use, reporter: Reporter) -> Evaluated:
        """Scores of a run on a split of its own data, or of other data."""
        raise CapabilityError(f"{use.run.shown}: {self._refusal('evaluate')}")

    def predict(self, use: Use, reporter: Reporter) -> Any:
        """What a run says of new images: an object with `rows()`, `skipped`, `files`."""
        raise CapabilityError(f"{use.run.shown}: {self._refusal('predict')}")

    def predictor(self, use: Use) -> Any:
        """The run's model, loaded once: an object with `predict(images)`."""
        raise CapabilityError(f"{use.run.shown}: {self.title} keeps no model between calls; call vladapt.predict")

    def served(self, use: Use, serving: Serving) -> Served:
        """The run's model, loaded once, for `vladapt serve`."""
        why = self.refusals.get("serve") or f"{self.title} is not supported by vladapt serve; use vladapt predict"
        raise CapabilityError(f"{use.run.shown}: {why}")

    def export(self, use: Use, wishes: ExportWishes, reporter: Reporter) -> Exported:
        """The run as graphs that were compared with it."""
        raise CapabilityError(f"{use.run.shown}: {self._refusal('export')}")

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """The key columns of every fit of a comparison on one data set, in the order they are best run."""
        raise ConfigError(self._refusal("compare"))

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        """Read the data of a comparison.

        Raises:
            ConfigError: the task has no comparison.
        """
        raise ConfigError(self._refusal("compare"))

    def contests(self, recipes: Sequence[Recipe], axes: Axes, reporter: Reporter) -> Iterator[Contest]:
        """The comparison on one data set after the other; a task whose fits are tested on several gives its own."""
        for recipe in recipes:
            yield self.contest(recipe, axes, reporter)

    def published_means(self, settings: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Published means over these data sets: dicts of the method, "shots", "published" and "published_in".

        Args:
            settings: `Contest.setting` of each set.
        """
        return []

    def deciding_of(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The metric that a comparison with these rows is about."""
        return self.deciding

    # what a user sees ------------------------------------------------------------------------------------------------

    @abstractmethod
    def table(self, metrics: Mapping[str, Any]):
        """Scores as a rich table."""

    def falls(self, score: str) -> bool:
        """Whether more of a score is not better, so that no least value says that it is good.

        Args:
            score: as of metrics.json: "rmse", "text_to_image/mean_rank".
        """
        return False

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        """Whether the change is more than chance, in a sentence; "" where nothing can be said."""
        return ""

    def write_rows(self, predicted: Any, path: Path) -> None:
        """Write what `predict` gave into a file with a suffix in `row_files`; DataError where nothing can be."""
        from ..runtime.files import write_whole
        from ..runtime.reading import json_text

        write_whole(path, "".join(json_text(row) + "\n" for row in predicted.rows()))
        predicted.files.append(path)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        """Rows of `predict` as a rich table."""
        raise CapabilityError(self._refusal("predict"))

    def predictions_summary(self, rows: Sequence[Mapping[str, Any]]):
        """What many rows of `predict` say together, in 15 lines at most; None: they are shown one by one."""
        return None

    @property
    def own_files(self) -> tuple[str, ...]:
        """Suffixes of files that the domain writes of this task's predictions."""
        return () if self.domain is None else tuple(self.domain.own_files.get(self.name, ()))

    def check_use(self, use: Use, command: str) -> None:
        """Raise the ConfigError of what is given to a command that this task does not take there."""
        taken = self.at_evaluation if command == "evaluate" else self.at_prediction
        taken = taken | {"out"} if self.own_files or use.outputs or (use.explain and "explain" in taken) else taken
        for key in USED:
            value = getattr(use, key)
            if value is not None and value != {} and key not in taken:
                flag = "--resource" if key == "resources" else f"--{key.replace('_', '-')}"
                raise ConfigError(f"{flag}: {self._why_unused(key)}")
        for file in use.files:
            if file.suffix.lower() not in (*self.row_files, *self.own_files):
                kinds = " or ".join(self.row_files)
                raise ConfigError(f"--out {file}: {self.title} writes its rows as {kinds}; give such a file")
        for kind in use.outputs:
            if kind.made_of not in self.gives:
                raise ConfigError(
                    f"--as {kind.name}: is made of {kind.made_of}, which {self.title} does not give; omit it"
                )
            if use.out is None:
                raise ConfigError(f"--as {kind.name}: writes into a folder; give one with --out DIR")
            kind.check(use, self)

    def check_axes(self, axes: Axes) -> None:
        """Raise the ConfigError of an axis that this task's comparison does not vary."""
        if not self.compares:
            raise ConfigError(self._refusal("compare"))
        for key, value in vars(axes).items():
            if value is not None and key not in self.compares:
                varied = ", ".join(f"--{each}" for each in sorted(self.compares))
                raise ConfigError(f"--{key}: a comparison of {self.title} varies {varied}; omit --{key}")

    def _task_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if self.options is None and given:
            raise ConfigError(f"--set {next(iter(given))}: {self.title} has no options of its own; omit it")
        options, what = self.options, f"task '{self.name}'"
        return {} if options is None else {**vars(options()), **chosen(options, given, what)}

    def _why_unused(self, key: str) -> str:
        if key.startswith("sources."):
            return f"{self.title} takes one data set; give one (retrieval and pretrain take several)"
        return self.unused.get(key, self.unused.get(key.partition(".")[0])) or f"{self.title} does not use it; omit it"

    def _refusal(self, command: str) -> str:
        return self.refusals.get(command) or f"{self.title} has no {command}"


IMAGE_KEYS = frozenset(
    {"domain", "task", "data", "backbone", "image_size", "device", "amp", "batch_size", "workers", "tolerate"}
)
"""Recipe keys that count wherever images are encoded."""


def refuse_unused(recipe: Recipe, taken: frozenset[str], why: Callable[[str], str]) -> None:
    """Raise the ConfigError of a given key that is not taken, whatever its value.

    Args:
        why: key -> the reason, or what to give instead.
    """
    for key in sorted(recipe.given):
        if key.partition(".")[0] not in taken:
            raise ConfigError(f"{_as_written(recipe, key)}: {why(key)}")


def _as_written(recipe: Recipe, key: str) -> str:
    """A given key with its value, as the user wrote it."""
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    flag = as_flag(key)
    if value is True:
        return flag
    return f"{flag}={as_text(value)}" if " " in flag else f"{flag} {as_text(value)}"
