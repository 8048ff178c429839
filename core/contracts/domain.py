"""A domain: how its data is read, how its pixels become inputs, which words name its classes, what fits it.

And what a domain may have of its own: metrics, which a classification reports besides the usual ones; files that it
writes of new images in place of one row per image, as maps of rasters; what a person looks at who labels an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError, UnknownNameError
from .items import Decoded, DomainData, Item
from .options import option, options_from, settle

if TYPE_CHECKING:
    from torch import Tensor

    from ..runtime.progress import Reporter
    from .corruption import Corruption
    from .images import InputChannels
    from .use import Use


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of `read_any` (`core/data/detect.py`), and of every domain's `read` that names no others. A domain's own
    may be a subclass. Which of them apply depends on the kind of data found."""

    class_names: tuple[str, ...] | None = option(None, "manifests: the classes in order; by default all that occur")
    root: str | None = option(
        None, "manifests and split_zhou files: the folder that paths are relative to", metavar="DIR"
    )
    label_column: str | None = option(None, "manifests: the column of the label; by default one of the usual names")
    group_column: str = option(
        "auto", "what belongs together: a column of a table, folder, stem:REGEX of file names, auto or none"
    )
    min_side: float | None = option(None, "boxes: shortest side in pixels to keep", low=0, high=100_000)
    max_pixels: int = Item.max_pixels_option()

    def __post_init__(self):
        settle(self)

    def of_any(self) -> dict[str, Any]:
        """What is said for `read_any`: these options by name, without those of a subclass."""
        return {field.name: getattr(self, field.name) for field in fields(Reading)}


@dataclass(frozen=True, kw_only=True)
class NumberReading(Reading):
    """Of a domain whose images may have numbers."""

    target_column: str | None = option(
        None, "regression: the column of the number; by default one of the usual names (target, height, ...)"
    )

    def check_column(self, task: str) -> None:
        """Raise the ConfigError of a column of numbers that is named for another task than regression."""
        if self.target_column is not None and task != "regression":
            raise ConfigError(f"--target-column {self.target_column}: is for --task regression; omit it")


@dataclass
class Evaluation:
    """How well a model of a domain's own does, and what a report shows of it.

    Args:
        metrics: name -> value; shares are in 0..1.
        sections: of the report, in order (`core/runs/sections.py`).
        notes: sentences for the user.
        intervals: metric -> its 95 % interval (low, high), where it has one.
        groups: how many groups of images the intervals draw; None where they draw images.
        objects: class name -> objects of it in the test images, where they are counted.
    """

    metrics: dict[str, float]
    sections: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    groups: int | None = None
    objects: Mapping[str, int] = field(default_factory=dict)


@dataclass
class OwnFiles:
    """What was written.

    Attributes:
        facts: JSON-able dicts with the same keys, of whatever the files tell of.
        columns: title -> format of a fact ("{share:.1%}") of the table that a user sees; empty where a value is None.
        files: that were written.
        skipped: (id, reason) of images that were left out.
        notes: sentences for the user.
    """

    facts: list[dict[str, Any]]
    columns: Mapping[str, str]
    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """The facts."""
        return self.facts

    def cells(self) -> list[list[str]]:
        """The facts as texts, in the order of the columns."""
        return [[_text(fact, form) for form in self.columns.values()] for fact in self.facts]


def _text(fact: Mapping[str, Any], form: str) -> str:
    try:
        return form.format(**fact)
    except TypeError:  # of None
        return ""


class MaskScorer(ABC):
    """What a domain says of masks that were found in a test set, beside the scores of the task."""

    @abstractmethod
    def add(self, item: Item, truth: np.ndarray, found: np.ndarray) -> None:
        """One image.

        Args:
            truth: (H, W) class indices, 255 for pixels that count for nothing.
            found: (H, W) class indices.
        """

    @abstractmethod
    def evaluation(self) -> Evaluation:
        """Its scores, when all images were added."""


class Scorer(ABC):
    """A fitted run that scores new images, some at a time; its model is loaded once, and nothing is stored.

    Attributes:
        class_names: the C names.
        multilabel: whether an image may have several labels.
        fingerprint: text that changes with whatever its scores depend on, besides the images.
    """

    class_names: tuple[str, ...]
    multilabel: bool
    fingerprint: str

    @abstractmethod
    def score(self, data: DomainData) -> tuple[list[str], Tensor, list[tuple[str, str]]]:
        """Ids of the N images that could be read, (N, C) probabilities, and (id, reason) of the others."""


class Metric(ABC):
    """Base of metrics of a domain's own; `Domain.metrics` names those that are reported.

    Class attributes:
        name: its name, and its key in metrics.json.
        multilabel: whether it takes several labels per image too.
        falls: the lower the better.
    """

    name: ClassVar[str] = ""
    multilabel: ClassVar[bool] = False
    falls: ClassVar[bool] = False

    @abstractmethod
    def compute(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> float | dict[str, float]:
        """The metric on a test set.

        Args:
            logits: (N, C) float32, on the CPU.
            labels: (N,) int64, or (N, C) of 0, 1 and NaN (unknown).
            class_names: C names.

        Returns:
            A value, or several by what they are of: {"left": 0.5} becomes "NAME/left". Shares lie in 0..1.
        """

    def values(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        """`compute`, by the keys of metrics.json."""
        computed = self.compute(logits, labels, class_names)
        if isinstance(computed, dict):
            return {f"{self.name}/{part}": float(value) for part, value in computed.items()}
        return {self.name: float(computed)}


class Domain(ABC):
    """Base of all domains. Subclasses set `name`, `tasks` and implement `read`, `sample` and `templates`.

    Reading changes no domain: one reads any number of sets, in any order. Words and transforms that depend on what was
    read are those of another object, which the data bring (`DomainData.domain`); who needs them asks `of(data)`.

    Class attributes:
        tasks: names of tasks; the first is the default one. A class in place of a name, derived from `Task`, is a
            task of the domain's own that is not installed as a plug-in.
        reading: options of `read`, a dataclass of `option` fields; `data.NAME` in a recipe.
        default_adapter: the method of a fit that names none.
        views: augmented views of each support image, for methods that average them or train on them, where neither the
            user nor a preset says how many: what was measured to help on such images. None for the method's number.
        metrics: names of metrics of its own, or their classes, that a classification reports besides the usual ones.
        own_files: task -> suffixes of files of the domain's own that `predict --out` writes, by `write_own`; a folder
            that `--out` names is then its too.
        hit_files: suffixes of files of the domain's own that `search --out` writes, by `write_hits`.
        words: what reports and tables call "image", "images", "patient", "patients" and "image.png" -> its own word.
        judgements: task -> names of judgements of its own that are made there, besides the task's.
        searches_others: whether a search by an image leaves out what is of the image's own group, such as its patient,
            where nobody says otherwise.
        not_for: sentences on what its models must not be used for, for the card of a published run.
        NO_PRESET: the preset that is no published set's.
        STILL: what the only still of an image is called, for labelling by eye.
    """

    NO_PRESET: ClassVar[str] = "none"
    STILL: ClassVar[str] = "image"
    name: ClassVar[str] = ""
    words: ClassVar[Mapping[str, str]] = {"patient": "subject", "patients": "subjects"}
    not_for: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str | type[Any], ...]] = ("classification",)
    reading: ClassVar[type] = Reading
    default_adapter: ClassVar[str] = "auto"
    views: ClassVar[int | None] = None
    metrics: ClassVar[tuple[str | type[Metric], ...]] = ()
    own_files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    hit_files: ClassVar[tuple[str, ...]] = ()
    judgements: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    searches_others: ClassVar[bool] = False

    @abstractmethod
    def read(self, path: str | Path, task: str, **options) -> DomainData:
        """Read a labelled data set by looking at `path`.

        Args:
            options: fields of `reading`.

        Raises:
            DataError: nothing usable there; one line with the path and what would be read.
            ConfigError: an option that is not usable, said before anything is read.
        """

    def sample_as(self, task: str, options: Mapping[str, Any]) -> DomainData:
        """The sample of a task as a user wants it read; where the options make no other, that of the task.

        Args:
            options: fields of `reading`.
        """
        return self.sample(task)

    def run_of_model(self, place: str) -> Path | None:
        """The folder of a run, made without training, of the model that a place of the hub names; None for a place that
        the domain has no use for.

        Raises:
            DataError: a model that cannot be used.
        """
        return None

    def of(self, data: DomainData) -> Domain:
        """The domain as its words and transforms are for a data set that it read."""
        return data.domain or self

    def words_of(self, reading: Mapping[str, Any]) -> Mapping[str, str]:
        """The `words` for samples that are read with these options of a recipe; the same for all by default."""
        return self.words

    def reading_of(self, options: Mapping[str, Any]) -> Any:
        """`reading` from what a user said. None counts as not given.

        Raises:
            UnknownNameError: no such option; the message names the nearest.
            ConfigError: a value that is not usable.
        """
        return options_from(self.reading, options, f"domain '{self.name}'")

    def reading_for(self, options: Mapping[str, Any], backbone: str | None) -> Mapping[str, Any]:
        """Options of `reading` with those that the backbone decides where nobody says otherwise: how large a tile of a
        slide is, say.

        Args:
            options: as the user gave them.
            backbone: its spec, or None.
        """
        return options

    def in_tiles(self, options: Mapping[str, Any]) -> bool:
        """Whether samples read with these options of `reading` are bags of tiles (`DomainData.in_tiles`)."""
        return False

    def channels(self, options: Mapping[str, Any]) -> InputChannels | None:
        """What images read with these options of `reading` have beyond red, green and blue, which towers are then
        widened for, or which three bands they have; None for pictures of red, green and blue."""
        return None

    def read_images(self, paths: Sequence[str | Path], **options) -> DomainData | None:
        """Unlabelled images for `predict`, `embed`: files, or folders searched for files. None: they are plain image
        files, which need no reader of the domain's own (`core/data/unlabelled.py` reads them)."""
        return None

    def read_query(self, path: str | Path, **options) -> DomainData | None:
        """What `search --image` looks for, a single item; None: it is read as new images are."""
        return None

    def to_read_again(self, files: Sequence[str | Path]) -> list[str | Path]:
        """What `read_images` takes for items whose files (`Item.source`) are these: the folders of files that are no
        sample by themselves."""
        return list(files)

    def to_index(self, data: DomainData, **options) -> DomainData:
        """What `index` goes through, of new images as they are read. A domain of long samples divides them here, into
        items of which each part is found by itself (`part_item`)."""
        return data

    def drawer(self, items: Sequence[Item], class_names: Sequence[str]) -> Callable[[int, int], Item]:
        """What a training sees in the place of items with `Item.draw`: (row, seed) -> a sample with its target, a
        function of both alone.

        Args:
            items: all that train, in the order of their rows.
            class_names: what their targets are numbers of.
        """
        raise NotImplementedError(f"domain '{self.name}' reads samples that are drawn anew and does not draw them")

    def part_item(self, item: Item, part: int) -> Item | None:
        """One part of a sample as an item of its own, where `index` is to find parts by themselves (the seconds of a
        video): `load` then shows it, and its target's `about` says where it is. None: the sample is found as a
        whole."""
        return None

    def part_names(self, item: Item, count: int) -> Sequence[str]:
        """What the parts of a sample are called ("slice 40", "LATERAL"), in their order, so that it can be told which
        of them an answer rests on; none of parts that nobody looks at by themselves.

        Args:
            count: of its parts.
        """
        return ()

    def placed(self, item: Item) -> dict[str, Any]:
        """What rows of predictions say of where an item lies in its file, by column: seconds of a clip, say.

        Raises:
            DataError: its file cannot be read.
        """
        return {}

    def decode(self, path: str | Path, decode: Mapping[str, Any]) -> Decoded | None:
        """What an item with `Item.READ_BY` shows, (H, W, 3): its file, and `Item.decode` without that key. None: it is
        a plain image file, which needs no decoder of the domain's own (`core/data/images.py` decodes it).

        Raises:
            DataError: it cannot be decoded.
        """
        return None

    def valid(self, path: str | Path, decode: Mapping[str, Any]) -> np.ndarray | None:
        """Where what `decode` shows has values, (H, W) bool. Pixels without one (nodata of a raster) are neither
        learned nor named. None: all have one.

        Raises:
            DataError: the file cannot be read.
        """
        return None

    def from_training(self, data: DomainData, **options) -> DomainData:
        """A set whose splits are assigned, with what is computed of its training samples alone (the ranges that pixels
        are stretched from). What new images need of it is in `DomainData.reading`.

        Args:
            options: fields of `reading`.
        """
        return data

    def channel_statistics(self, items: Sequence[Item]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of each channel of samples, of values in 0..1; None: those of the tower are
        taken.

        Raises:
            DataError: none of them can be read.
        """
        return None

    def picture(self, item: Item, load: Callable[[Item], Decoded]) -> dict[str, np.ndarray]:
        """The stills of an item by name, (H, W, 3) uint8 each, the one to begin with first.

        By default the decoded image; of a clip, or of several composites of a raster, each by its number; of an image
        of more than three channels the first three.

        Args:
            item: a sample.
            load: decodes it (`DomainData.load`).

        Raises:
            DataError: it cannot be decoded.
        """
        decoded = np.asarray(load(item))
        if decoded.ndim == 3:
            return {self.STILL: self.as_still(decoded)}
        return {f"{number} of {len(decoded)}": self.as_still(frame) for number, frame in enumerate(decoded, start=1)}

    @staticmethod
    def as_still(pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8, or float in 0..1, as (H, W, 3) uint8; the first three of more channels."""
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(pixels)

    def mask_scorer(self, data: DomainData) -> MaskScorer | None:
        """Scores of its own for the masks of a test set; None for those of the task alone."""
        return None

    def further_files(
        self, rows: Sequence[Mapping[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
    ) -> list[Path]:
        """Write what a task found in new images (rows with `id`, and `boxes` or `masks`) in forms of the domain's own,
        maps for instance, into a folder beside the task's files; returns them.

        Raises:
            DataError: nothing can be written there.
        """
        return []

    def writes_own(self, use: Use, task: str, reading: Mapping[str, Any]) -> bool:
        """Whether `write_own` answers a `predict`: it asks for a file or folder of the domain's own.

        Args:
            reading: options of the reader: those of the run, and those given now.
        """
        own = self.own_files.get(task, ())
        return bool(own) and (use.out is not None or any(file.suffix.lower() in own for file in use.files))

    def write_own(
        self, use: Use, task: str, reading: Mapping[str, Any], scorer: Callable[[], Scorer], reporter: Reporter
    ) -> OwnFiles:
        """Write what a `predict` asks for, where `writes_own`: all of `use.files` and `use.out`, whole or not at all.

        Args:
            scorer: loads the run's model, to be called when all else was found to be right.

        Raises:
            ConfigError, DataError: an option, or an image, that no such file can be made of.
        """
        raise NotImplementedError(f"domain '{self.name}' names files of its own and does not write them")

    def write_hits(self, items: Sequence[Item], scores: Sequence[float], file: Path) -> list[str]:
        """Write what a search found, the best first, as a file of one of `hit_files`.

        Returns:
            Sentences for the user.

        Raises:
            DataError: nothing that was found can stand in such a file, or nothing can be written there.
        """
        raise NotImplementedError(f"domain '{self.name}' names files of results and does not write them")

    @abstractmethod
    def sample(self, task: str) -> DomainData:
        """A small set that needs no download."""

    @abstractmethod
    def templates(self, task: str) -> list[str]:
        """Prompt templates with one `{}` for the class name."""

    def one_template(self, task: str) -> str | None:
        """The one prompt that papers take for a published set instead of several; None where `templates` has it."""
        return None

    def negative_templates(self, task: str) -> list[str]:
        """Templates that say a finding is absent, for sets with several labels per image."""
        return ["a photo without {}."]

    def sentences(self, class_name: str, task: str) -> tuple[list[str], list[str]] | None:
        """Texts that say a class is there, and texts that say its contrary, where templates filled with its name would
        not do ("a woman", "a man"); None where they do."""
        return None

    def use_preset(self, name: str) -> str | None:
        """Take the prompts of a published set in place of one that was recognised; "none" for no set's. A fit asks a
        copy of the domain, for its data alone.

        Returns:
            The set's usual name, by which methods know their settings for it; None for "none".

        Raises:
            UnknownNameError: no such set; by default there are none.
        """
        if name == self.NO_PRESET:
            return None
        raise UnknownNameError(f"--preset {name}: domain '{self.name}' knows no published sets; omit it")

    @property
    def corruptions(self) -> Sequence[Corruption]:
        """Ways in which its images go wrong that photographs do not know, for `eval --holistic`; by default none."""
        return ()

    def transforms(self, backbone, train: bool, task: str) -> Callable[[Decoded], Any]:
        """Decoded image -> pixels (3, S, S), or (T, 3, S, S) of a sample with parts: frames of a clip (T, H, W, 3),
        slices of a volume, windows of a raster. Each part is encoded and stored by itself, and methods get the parts or
        their mean.

        Called as transform(decoded, seed=None): what is random is a function of the seed alone. Has an attribute
        `spec` (JSON-able), part of the feature store's key. One whose crop may be changed is a `CropTransform`; its
        `safe_crop` says what such images stand, and methods that publish smaller crops take that.
        """
        return backbone.preprocess(train)

    @property
    def kind_of_images(self) -> str:
        """What its prompts depend on, where images of several kinds have prompts of their own ("radiology"); a language
        file says under this name what they are asked by."""
        return ""

    @cached_property
    def languages(self) -> dict[str, Path]:
        """Code -> file of class names and prompts in a language, from the folder `languages/` beside the domain's
        module."""
        return {file.stem: file for file in self._beside("languages", "*.json")}

    @cached_property
    def recipes(self) -> dict[str, Path]:
        """Recipe name -> file, from the folder `recipes/` beside the domain's module."""
        return {file.stem.replace("_", "-"): file for file in self._beside("recipes", "*.py")}

    def _beside(self, folder: str, pattern: str) -> list[Path]:
        """Files of a folder beside the domain's module; none where there is no such folder."""
        import inspect

        return sorted((Path(inspect.getfile(type(self))).parent / folder).glob(pattern))

    def check_task(self, task: str | None) -> str:
        """`task`, or the default one; raises ConfigError for one the domain does not have."""
        names = self.task_names
        if not task:
            return names[0]
        if task not in names:
            raise ConfigError(f"--task {task}: domain '{self.name}' has {', '.join(names)}")
        return task

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of `tasks`."""
        return tuple(task if isinstance(task, str) else task.name for task in self.tasks)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table: what was looked at, ok or not, what was found, what to do."""

    what: str
    ok: bool
    found: str
    cure: str = ""
