"""What run.json and metrics.json say of a run, and a run folder that was opened: typed attributes, and as a Mapping the
keys of the file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .families import TILES

if TYPE_CHECKING:
    from typing_extensions import Self


class Keyed(Mapping[str, Any]):
    """A frozen dataclass, made by `@dataclass(frozen=True, eq=False)`, that is a Mapping too, by its JSON keys."""

    @abstractmethod
    def values_by_key(self) -> Mapping[str, Any]:
        """What the JSON holds."""

    def __getitem__(self, key: str) -> Any:
        return self.values_by_key()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_key())

    def __len__(self) -> int:
        return len(self.values_by_key())


@dataclass(frozen=True, eq=False)
class JsonObject(Keyed):
    """A JSON object that was read. Its fields are what is known by name; what the object lacks, or has as null, has the
    default of its field. As a Mapping it is the object itself, with further keys and in its order.

    Attributes:
        json: the object.
    """

    json: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, json: Mapping[str, Any] | None) -> Self:
        """The record of an object; None is an empty one."""
        json = json or {}
        return cls(json, **{each.name: json[each.name] for each in fields(cls)[1:] if json.get(each.name) is not None})

    def with_(self, **changes: Any) -> Self:
        """A copy with other values by key; the order of the other keys stays."""
        return self.from_json({**self.json, **changes})

    def values_by_key(self) -> Mapping[str, Any]:
        return self.json


@dataclass(frozen=True, eq=False)
class BackboneInfo(JsonObject):
    """Which backbone a run stands on; empty of a run that was made from a features file.

    Attributes:
        spec: as `--backbone` takes it.
        fingerprint: hex digits of its weights and preprocessing.
        image_size: side in pixels, or (height, width).
    """

    spec: str = ""
    fingerprint: str = ""
    licence: str = ""
    image_size: Any = None

    @property
    def of_tiles(self) -> bool:
        """Whether it is stored tile features of slides."""
        return self.spec.partition(":")[0] == TILES


@dataclass(frozen=True, eq=False)
class DataInfo(JsonObject):
    """Which data a run was fitted on.

    Attributes:
        path: as it was given, or "sample".
        kind: of annotation, of `core/data`.
        counts: split -> class -> images.
        splits: split -> samples; of pairs.
        images, texts: their numbers; of pairs.
        people: split -> (people, pictures); of re-identification.
        named: whether a published run may tell the name.
    """

    name: str = ""
    path: str = ""
    kind: str = ""
    licence: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    images: int | None = None
    texts: int | None = None
    people: Mapping[str, Sequence[int]] = field(default_factory=dict)
    named: bool = False


@dataclass(frozen=True, eq=False)
class FitInfo(JsonObject):
    """What a fit chose; see `FitReport`."""

    chosen: Mapping[str, Any] = field(default_factory=dict)
    chosen_on: str = ""
    val_score: float | None = None
    judged: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True, eq=False)
class RunInfo(JsonObject):
    """What run.json holds. A task's own keys are read as those of a Mapping.

    Attributes:
        vladapt: the version that wrote it.
        created: ISO time.
        domain: None of a run that was made from a features file.
        adapter, adapter_options: the method; "" of a training by `pretrain`.
        transductive: whether it saw the test images without their labels.
        templates: prompts.
        base: path, adapter and digest of the run that it started from.
        shots: per class; None for all.
        splits: split -> names of samples.
        digests: part of the fit -> digests of what its images show, or "too_many" -> their number.
        published: of a run that was pushed, its counts of samples.
        skipped: (name, reason) of what could not be read.
        plan: the config of a model that was trained by one.
        model: path of the trained towers.
        losses, loss_options, teacher, settings, steps, best_epoch, trained_parameters, samples_per_second: of a
            training.
        judge: of a fit without labels, the method and what is kept.
        not_calibrated: why there is no calibration.
        origin: the working directory of the fit, from the run folder.
        sha256: file of the run -> its digest when the run was written.
        words: what stands in reports in place of words of ours, where the run says so itself.
        seconds: of the fit.
        versions: of packages.
        recipe: of `Recipe.to_dict`.
    """

    vladapt: str = ""
    created: str = ""
    domain: str | None = None
    task: str = ""
    adapter: str = ""
    adapter_options: Mapping[str, Any] = field(default_factory=dict)
    transductive: bool = False
    class_names: Sequence[str] = ()
    templates: Sequence[str] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    shots: int | None = None
    seed: int | None = None
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    digests: Mapping[str, Any] | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    plan: Mapping[str, Any] | None = None
    model: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)
    loss_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    best_epoch: int | None = None
    trained_parameters: int | None = None
    samples_per_second: float | None = None
    verdict: str = ""
    judge: Mapping[str, Any] = field(default_factory=dict)
    not_calibrated: str = ""
    origin: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] | None = None
    seconds: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def backbone(self) -> BackboneInfo:
        """Empty of a run that was made from a features file."""
        return BackboneInfo.from_json(self.json.get("backbone"))

    @cached_property
    def data(self) -> DataInfo:
        return DataInfo.from_json(self.json.get("data"))

    @cached_property
    def fit(self) -> FitInfo:
        return FitInfo.from_json(self.json.get("fit"))

    @property
    def licences(self) -> dict[str, str]:
        """Of weights and data, as exports name them."""
        return {"weights": self.weights[1] or "unknown", "data": self.data.licence or "unknown"}

    @property
    def weights(self) -> tuple[str, str]:
        """Name and licence of what the training began with: the model that its plan names as source, else the
        backbone."""
        source = ((self.plan or {}).get("vladapt") or {}).get("source")
        if not source:
            return self.backbone.spec, self.backbone.licence
        return f"hf:{source['id']}" if source["revision"] else Path(source["id"]).name, source["licence"]


@dataclass(frozen=True, eq=False)
class BeforeAfter(JsonObject):
    """What metrics.json says of a test set: the scores before and after a training, or of what was trained alone.

    Attributes:
        adapted: metric -> score; empty where nothing was measured.
        zero_shot: the same before; empty where there is nothing to compare with.
        intervals, metric_intervals: side -> metric -> [low, high]; of most tasks one of them.
        test_groups: their number, where there are groups.
        objects: class name -> objects of it in the test images, where they are counted.
        exchange: metric -> {"difference", "p_value"} of a permutation test; empty without scores before.
    """

    adapted: Mapping[str, Any] = field(default_factory=dict)
    zero_shot: Mapping[str, Any] = field(default_factory=dict)
    test_images: int = 0
    test_groups: int | None = None
    intervals: Mapping[str, Any] = field(default_factory=dict)
    metric_intervals: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)
    exchange: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def interval(self, side: str, metric: str) -> Sequence[float] | None:
        """95 % interval of a score, of "zero_shot", "adapted" or a side of the task's own; None where there is none."""
        known = (self.metric_intervals.get(side), self.intervals.get(side))
        return next((of[metric] for of in known if of and of.get(metric)), None)

    def between(self, metric: str) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """The interval before and after."""
        return self.interval("zero_shot", metric), self.interval("adapted", metric)


def mapped_texts(value: Any, change: Callable[[str], str], keep: Container[str] = ()) -> Any:
    """A nest of plain values with each of its texts changed, but for what lies below the keys `keep`."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: inner if key in keep else mapped_texts(inner, change, keep) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped_texts(inner, change, keep) for inner in value]
    return value


@dataclass(eq=False)
class FittedRun:
    """A run folder that was opened.

    Attributes:
        path: the folder.
        info: what run.json holds.
        metrics: what metrics.json holds.
        place: how a run of the Hugging Face hub was named; "" for one in a folder.
    """

    path: Path
    info: RunInfo = field(default_factory=RunInfo)
    metrics: dict[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def shown(self) -> str:
        """How the user names it."""
        return self.place or str(self.path)

    @property
    def adapter_path(self) -> Path:
        """The file of the fitted adapter."""
        return self.path / "adapter.safetensors"

    def replace_adapter(self, save: Callable[[Path], Any]) -> None:
        """Write that file anew."""


@dataclass(frozen=True)
class AxisScore:
    """How well a run does on one side from which it is looked at: a share, and more of it is better.

    Attributes:
        title: of the figure that shows all sides.
        score: of the run.
        interval: [low, high] of it, with 95 %; None where there is none.
        zero_shot: the same of zero-shot, or None.
        begins: how `--fail-under` names the lower limit.
        about: a sentence on how the score is made, where it is not a plain share.
    """

    title: str
    score: float
    interval: Sequence[float] | None = None
    zero_shot: float | None = None
    begins: str = "its 95 % interval"
    about: str = ""


class Record(Keyed):
    """The result of a judgement: a frozen dataclass, made by `@dataclass(frozen=True, eq=False)`.

    It is a Mapping too, with the keys that metrics.json has below `key`, so that `record["drop"]` and `record.drop` are
    the same. A field that says what it is of, and is no result, is made by `beside()` and left out of both. Of
    predictions the keys, which stand alone, are columns of their rows, and each field holds a value per image.

    Class attributes:
        key: in metrics.json; "" where its own keys stand beside the scores.
        beside_scores: such keys, of which one at least is there.
        axes: names of scores that `--fail-under` takes, of `axis_scores` -> what to give for them ("give --by COLUMN").
    """

    key: ClassVar[str] = ""
    beside_scores: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[Mapping[str, str]] = {}

    def values_by_key(self) -> dict[str, Any]:
        """What metrics.json holds below `key`; by default the fields, in order."""
        return {each.name: getattr(self, each.name) for each in _fields(type(self)) if not each.metadata.get("beside")}

    def to_json(self) -> dict[str, Any]:
        """What the record adds to metrics.json, or to the rows of predictions, as dictionaries, lists, numbers and
        texts."""
        values = {key: _as_json(value) for key, value in self.values_by_key().items()}
        return {self.key: values} if self.key else values

    @classmethod
    def is_in(cls, metrics: Mapping[str, Any]) -> bool:
        """Whether metrics.json has this record."""
        return any(metrics.get(key) for key in (cls.key, *cls.beside_scores))

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self | None:
        """The record that is part of metrics.json, which may be older than this version; None where it lacks what the
        record is of.

        Args:
            metrics: all of the file, which the record `is_in`, so that it may take what it is of from its surroundings.
        """
        known = {each.name for each in _fields(cls) if each.init and not each.metadata.get("beside")}
        return cls(**{key: value for key, value in metrics[cls.key].items() if key in known})

    def section(self) -> Any:
        """For the report: a section (`core/runs/sections.py`), or several in a list; None for none.

        It names and shows no single image, because a report without names of files has it too.
        """
        return None

    def pictured(self) -> tuple[str, Sequence[tuple[int, str]]] | None:
        """A title and (test row, words), for a report that may show single images; None for none."""
        return None

    def among(self, others: Mapping[str, Record]) -> Record:
        """The record as its section shows it beside those of other judgements, by their names."""
        return self

    def axis_scores(self) -> Mapping[str, AxisScore | str]:
        """Name -> the score of a side from which the run is looked at, for `--fail-under` and the figure of all sides;
        or why there is none, in words. Each of `axes` is there; others may be."""
        return {}

    def note(self) -> str:
        """A sentence for the user; "" for none."""
        return ""

    @property
    def notes(self) -> list[str]:
        """`note`, of a record that may say several sentences."""
        return [self.note()]

    def table(self) -> Any:
        """For the terminal, below the scores, what rich prints; None for nothing."""
        return None

    def facts(self) -> dict[str, Any]:
        """What it adds to run.json."""
        return {}

    def save(self, folder: Path) -> None:
        """Write what a run is to keep of it, besides numbers, into the run folder."""


def _fields(record: Any) -> tuple[Field, ...]:
    """Of a record, each of which is a dataclass."""
    return fields(record)


def beside(default: Any = None) -> Any:
    """A field of a record that is no key of it: what a section needs, such as logits."""
    return field(default=default, repr=False, compare=False, metadata={"beside": True})


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, Record):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, (tuple, list)) else value
