"""A judgement: what is said of a fitted model besides its plain scores, of its predictions, or of the data.

Calibration, baselines, forgetting, the order of parts: each is one class and one file in `core/judgements/` (or in a
domain's `judgements/`, or behind an entry point `vladapt.judgements`). A task is a list of their names; the report, the
terminal, metrics.json, `eval` and `predict` go through that list, and no other file names a judgement.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ConfigError
from .options import settle
from .run_info import AxisScore, Record
from .shown import in_short

if TYPE_CHECKING:
    from torch import Tensor

    from ..runtime.progress import Reporter
    from .adapter import Adapter, FitReport
    from .backbone import Backbone
    from .features import FeatureSet
    from .groups import PossibleGroups
    from .items import DomainData
    from .prepared import PreparedData, Shots
    from .run_info import FittedRun
    from .use import Use

FIT, EVAL, PREDICT, COMPARE, SELECT = "fit", "eval", "predict", "compare", "select"
"""Commands that judgements are made in."""


class Place(Enum):
    """Where the section of a judgement stands in a report."""

    VERDICT = "at the top, below the headline"
    SCORES = "below all scores"
    REASONS = "where the report says what the scores rest on"
    ABILITIES = "among what else the model can do"
    DETAILS = "after the scores of single classes"
    TRUST = "where the report says how far answers can be trusted"


@dataclass(kw_only=True)
class Judged:
    """What is judged.

    Attributes:
        at: the command: "fit", "eval", "predict", "compare" or "select".
        metrics: what is known by now, by the keys of metrics.json; each record's keys follow those of the scores. Of
            predictions, by the columns of their rows.
    """

    at: str
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class JudgedData(Judged):
    """Data as they were prepared for a fit or a comparison."""

    prepared: PreparedData

    @property
    def base(self) -> Any:
        """The run that the fit starts from, or None."""
        return self.prepared.base


@dataclass(kw_only=True)
class JudgedLabels(Judged):
    """A labelled set, with a way to fit it.

    Attributes:
        labelled: one label per image.
        fit: support -> (rows -> logits (n, C)).
        seed: of what is drawn.
    """

    labelled: FeatureSet
    fit: Callable[[FeatureSet], Callable[[FeatureSet], Tensor]]
    seed: int


@dataclass(kw_only=True)
class JudgedPredictions(Judged):
    """What a classifier says of N new images.

    Attributes:
        run: that predicts.
        class_names: C names.
        probabilities: (N, C) float64, rows summing to 1, or one probability per label; calibrated where the run is.
        features: (N, D) that they are of.
        answers: (N, C) bool, the labels that are named where an image may have several, of which a judgement may take
            some away; None with one label per image.
        called: (N,) the class that is named, of two classes that a threshold divides; None: the most likely.
        calibration: a `Calibration` of `core/confidence`; None where the run has none.
    """

    run: FittedRun
    class_names: Sequence[str]
    probabilities: Tensor
    features: Tensor
    answers: Tensor | None = None
    called: Tensor | None = None
    calibration: Any = None

    def names(self, chosen: Tensor) -> list[list[str]]:
        """The classes that are chosen of each image, (N, C) bool."""
        return [[name for name, kept in zip(self.class_names, row) if kept] for row in chosen.tolist()]


@dataclass(kw_only=True)
class JudgedFit(Judged, ABC):
    """A model as it was fitted, or as a run keeps it.

    Attributes:
        seed: of the fit.
        reporter: what shows progress.
        before: the backbone as it was loaded; None where there are features alone.
        after: the backbone that the fit made of it, the same where towers did not change.
        use: of a run that is scored again, with what was asked of it; None in a fit.
        workers: decoding threads, None for one per core.
        amp: None, "bf16" or "fp16".
        generic: a folder of generic images, or None for drawings.
    """

    seed: int
    reporter: Reporter
    before: Backbone | None
    after: Backbone | None
    use: Use | None = None
    workers: int | None = None
    amp: str | None = None
    generic: str | None = None

    @property
    def changed_towers(self) -> bool:
        """Whether the fit changed the backbone."""
        return self.after is not self.before

    @property
    def reads_texts(self) -> bool:
        """Whether the backbone has a text tower."""
        return self.before is not None and self.before.has_text


@dataclass(kw_only=True)
class JudgedTowers(JudgedFit):
    """Towers that a training changed, and what the task scored before and after.

    Attributes:
        adapter: None of a fit that trains nothing.
        data: as the task read it.
        scores_before, scores_after: as the task scores; before is None of a fit that trains nothing.
    """

    adapter: Adapter | None
    data: Any
    scores_before: Any
    scores_after: Any


@dataclass
class Scores:
    """Logits and metrics of zero-shot and of the adapted model on one test set.

    Attributes:
        labels: (N,), or (N, C); None where the test images have none.
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: {"zero_shot": {...}, "adapted": {...}, "test_images": N}, and what judgements say.
        groups: N keys of images that belong together, or None.
        probe_logits: (N, C) of a logistic regression on the same few labelled images, or None.
    """

    labels: Tensor | None
    zero_shot_logits: Tensor | None
    adapted_logits: Tensor
    metrics: dict[str, Any]
    groups: tuple[str, ...] | None = None
    probe_logits: Tensor | None = None

    @property
    def adapted(self) -> dict[str, Any]:
        """Metric -> score."""
        return self.metrics["adapted"]

    @property
    def zero_shot(self) -> dict[str, Any] | None:
        """The same of zero-shot."""
        return self.metrics.get("zero_shot")


@dataclass(frozen=True)
class OtherRun:
    """Another run that scored the same images.

    Attributes:
        name: of its folder.
        logits: (N, C), of the same classes in the same order.
        words: how many of the images were in its fit, in a sentence; "" where that is not known.
    """

    name: str
    logits: Tensor
    words: str = ""


@dataclass(kw_only=True)
class JudgedClassifier(JudgedFit):
    """A classifier of images, as its judgements see it. What has to be fitted or scored again is done by the task.

    Attributes:
        adapter: the fitted method.
        prepared: the data, on the backbone as it was loaded.
        test: (N, D) features of the test images by that backbone, with labels where they have some.
        class_names: C names, of the scores.
        scores: on these.
        deciding: the metric that a protocol says decides, or "".
        columns: logits of the fit -> those of the classes of the test set, where these are some of the fit's, or None.
        own_classes: whether the classes are those of the fit.
        novel: reads the data of the classes that the fit left out; None: they are not to be scored.
        report: of the fit; None where a run is scored again, as is `shots`.
        shots: what was drawn for the fit.
        drawn: shots per class as they were asked for, None for all, and further keywords of `PreparedData.draw`.
        split_seed: of the split of the data.
        refitted: whether the fit learned from the val of the draw too.
        judge_views: augmented views of each test image that are asked too whether a fit without labels is better than
            zero-shot; None where that is not to be judged.
        calibration: what confidences are made with, a `Calibration` of `core/confidence`; None where there is none, or
            until it is judged.
        not_calibrated: why there is none, or why it is not the usual one.
        against: another run that it is compared with, or None.
        fitted_on: reads the data that a run was fitted on, where other data are scored; None: they are `prepared`.
    """

    adapter: Adapter
    prepared: PreparedData
    test: FeatureSet
    class_names: Sequence[str]
    scores: Scores
    deciding: str = ""
    columns: Callable[[Tensor], Tensor] | None = None
    own_classes: bool = True
    novel: Callable[[], PreparedData] | None = None
    report: FitReport | None = None
    shots: Shots | None = None
    drawn: Mapping[str, Any] = field(default_factory=dict)
    split_seed: int = 0
    refitted: bool = False
    judge_views: int | None = None
    calibration: Any = None
    not_calibrated: str = ""
    against: OtherRun | None = None
    fitted_on: Callable[[], DomainData] | None = None

    @property
    def labels(self) -> Tensor | None:
        """(N,) class indices, or (N, C) of 0, 1 and NaN; None where the test images have none."""
        return self.scores.labels

    @property
    def labelled(self) -> bool:
        """Whether the test images have labels."""
        return self.labels is not None

    @property
    def several_labels(self) -> bool:
        """Whether an image may have several labels."""
        return self.adapter.multilabel_ if self.labels is None else self.labels.ndim == 2

    @property
    def of_findings(self) -> bool:
        """Whether an image has a finding or has it not: one of two classes, or each of several labels."""
        return self.own_classes and (self.several_labels or len(self.class_names) == 2)

    @property
    def possible_groups(self) -> PossibleGroups | None:
        """Groups of images of which the user is asked whether they belong together, or None."""
        possible = self.prepared.data.possible_groups
        return possible if possible is not None and possible.asked else None

    @property
    def untaught(self) -> bool:
        """Whether it learned from no labels, of its own or of a run that it started from, nor chose among methods."""
        if self.shots is None or self.report is None:
            return False
        return not len(self.shots.support) and self.prepared.base is None and not self.report.judged

    @property
    def sees_parts(self) -> bool:
        """Whether the method sees the parts of a sample, itself or by towers that encode them together."""
        joint = self.after is not None and self.after.joint is not None
        return joint or "parts" in self.adapter.at_predict

    @property
    def blocks(self) -> str:
        """How the data are split by place, in words; "" where they are not."""
        return self.prepared.data.blocks

    @abstractmethod
    def fit_again(self, adapter: Adapter, prepared: PreparedData, shots: Shots, quiet: bool = False) -> FitReport:
        """Fit another adapter, on other shots, as this one was fitted.

        Args:
            quiet: whether nothing is shown of it.
        """

    @abstractmethod
    def score_again(self, adapter: Adapter, prepared: PreparedData, test: FeatureSet, beside: bool = False) -> Scores:
        """Scores of a fitted adapter on rows of other data.

        Args:
            beside: whether zero-shot is scored too, and both are compared as on the test images.
        """

    @abstractmethod
    def answers_seen_through(
        self, ids: Sequence[str], change: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> tuple[Tensor | None, Tensor]:
        """Logits (n, C) of zero-shot, or None where it means nothing, and of the fit, on test images that a transform
        changes before the towers see them.

        Args:
            ids: of n test images.
            change: as of `PreparedData.seen_through`.

        Raises:
            DataError: an image has no features then.
        """


@dataclass(eq=False, kw_only=True)
class Judgement(ABC):
    """Base of all judgements: one file, one subclass, its options as `option` fields (`core/contracts/options.py`),
    which are flags of `eval` and `predict` where it is made in them.

    Class attributes:
        name: set by the registry, from the file or the entry point.
        record: what it gives; of one that also judges predictions, what it gives of a fit.
        judges: the kind, or kinds, of what it can judge; a task that has none of them leaves it out.
        at: the commands in which it is made, wherever there is what it judges.
        columns: of predictions, keys that it adds to their rows -> headings in the terminal.
        needs: properties of what is judged; where one is lacking there is nothing to say.
        asked_by: options of which one must be given, of a judgement that is made where it is asked for alone.
        place: where its section stands in a report.
        refits: whether it fits the method again, or follows one that does. Such judgements are made last, of the model
            that a run keeps.
        lasts: whether its options, as they were given to a fit, hold in evaluations of the run that give no others.
    """

    name: ClassVar[str] = ""
    record: ClassVar[type[Record]]
    judges: ClassVar[type[Judged] | tuple[type[Judged], ...]] = JudgedClassifier
    at: ClassVar[frozenset[str]] = frozenset({FIT, EVAL})
    columns: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    asked_by: ClassVar[tuple[str, ...]] = ()
    place: ClassVar[Place] = Place.DETAILS
    refits: ClassVar[bool] = False
    lasts: ClassVar[bool] = False

    def __post_init__(self):
        settle(self, f"judgement '{self.name}'")

    @property
    def asked(self) -> bool:
        """Whether it is made without being asked for, or is asked for."""
        return not self.asked_by or any(getattr(self, name) is not None for name in self.asked_by)

    def applies(self, judged: Judged) -> bool:
        """Whether it judges this kind, is asked for and finds what it needs."""
        return isinstance(judged, self.judges) and self.asked and all(getattr(judged, name) for name in self.needs)

    def check(self, adapter: Adapter, class_names: Sequence[str]) -> None:
        """Raise what can be told before anything is scored.

        Args:
            adapter: fitted.
            class_names: of the data.

        Raises:
            ConfigError, CapabilityError: an option that this model, or these classes, cannot be judged by.
        """

    def check_read(self, data: DomainData) -> None:
        """Raise what can be told of data as they were read, before any image is looked at, where it is asked for.

        Raises:
            ConfigError: an option that these data cannot be judged by.
        """

    def check_fit(self, adapter: Adapter, prepared: PreparedData, shots: int | None, given: Mapping[str, Any]) -> None:
        """Raise what can be told before a fit, where one of its options is given.

        Args:
            adapter: not fitted.
            prepared: the data of the fit.
            shots: images per class that are to be drawn; None for all.
            given: options of all judgements that were given, by name.

        Raises:
            ConfigError: an option that a fit on these data cannot be judged by.
        """

    @abstractmethod
    def compute(self, judged: Any) -> Record | None:
        """The record; None where there is nothing to say.

        Args:
            judged: a `judges` that it `applies` to.

        Raises:
            VladaptError: what was asked for by an option cannot be said of this.
        """


class Findings(dict[str, Record]):
    """Name of a judgement -> its record, in the order of the task's judgements.

    Args:
        classes: name -> class of each judgement that may be there.
    """

    def __init__(self, classes: Mapping[str, type[Judgement]], records: Mapping[str, Record] | None = None):
        super().__init__(records or {})
        self.classes = dict(classes)

    @classmethod
    def of_metrics(cls, classes: Mapping[str, type[Judgement]], metrics: Mapping[str, Any]) -> Findings:
        """Those that are part of metrics.json."""
        read = {name: of.record.from_json(metrics) for name, of in classes.items() if of.record.is_in(metrics)}
        return cls(classes, {name: record for name, record in read.items() if record is not None})

    def add(self, judgements: Sequence[Judgement], judged: Judged) -> list[str]:
        """Make those that apply; each is added to the metrics before the next is made.

        Returns:
            What they say, in sentences. Where one of another package fails, that it did, but in an evaluation, which is
            made for them: a fit is not lost by what is said of it, nor are predictions.

        Raises:
            ConfigError: a record has a key that is there already.
        """
        notes: list[str] = []
        for judgement in judgements:
            try:
                notes += self._made(judgement, judged)
            except Exception as error:
                if judged.at == EVAL or type(judgement).__module__.startswith(f"{__name__.partition('.')[0]}."):
                    raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                of = "this fit" if judged.at == FIT else "these images"
                notes.append(f"judgement '{judgement.name}' failed and says nothing of {of} ({reason})")
        return notes

    def _made(self, judgement: Judgement, judged: Judged) -> list[str]:
        """Make one judgement; its sentences."""
        record = judgement.compute(judged) if judgement.applies(judged) else None
        if record is None:
            return []
        entries = record.to_json()
        if taken := sorted(entries.keys() & judged.metrics.keys()):
            where = "the rows" if judged.at == PREDICT else "metrics.json"
            already = f"is in {where} already; give its record another key"
            raise ConfigError(f"judgement '{judgement.name}': '{taken[0]}' {already}")
        notes = [note for note in record.notes if note]
        self[judgement.name] = record
        judged.metrics.update(entries)
        return notes

    def sections(self, *places: Place) -> list[Any]:
        """Of the report, at these places."""
        made = [
            self[name].among(self).section() for name, of in self.classes.items() if name in self and of.place in places
        ]
        return [section for each in made for section in (each if isinstance(each, list) else [each]) if section]

    @property
    def pictured(self) -> list[tuple[str, Sequence[tuple[int, str]]]]:
        """Titles and (test row, words), for a report that may show single images."""
        return [rows for record in self.values() if (rows := record.pictured()) is not None]

    @property
    def axis_scores(self) -> dict[str, AxisScore | str]:
        """Of all records, by name; see `Record.axis_scores`."""
        return {name: score for record in self.values() for name, score in record.axis_scores().items()}

    @property
    def tables(self) -> list[Any]:
        """For the terminal."""
        made = [self[name].table() for name in self.classes if name in self]
        return [table for table in made if table is not None]

    @property
    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {key: value for record in self.values() for key, value in record.facts().items()}

    def save(self, folder: Path) -> None:
        """What a run keeps of them."""
        for record in self.values():
            record.save(folder)


@dataclass(frozen=True, eq=False)
class Evaluated(Record):
    """The scores of a run on a split. It is a Mapping too, with the keys that `vladapt eval --json` prints.

    Attributes:
        run, data, split: what was scored, by their names.
        metrics: of these images, by the keys of metrics.json: "zero_shot", "adapted", "test_images", ...
        in_fit: what is known of images that were in the fit, of `in_the_fit`.
        notes: sentences for the user; None where the task says none.
        skipped: (image, reason) of what could not be read.
    """

    __repr__ = in_short

    run: str
    data: str
    split: str
    metrics: Mapping[str, Any]
    in_fit: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] | None = None  # type: ignore[assignment]  # a field in place of a property
    skipped: Sequence[Sequence[str]] = ()

    def values_by_key(self) -> dict[str, Any]:
        notes = {} if self.notes is None else {"notes": self.notes}
        of = {"run": self.run, "data": self.data, "split": self.split}
        return {**of, **self.in_fit, **self.metrics, **notes, "skipped": self.skipped}

    @property
    def words(self) -> str:
        """How many of the images were in the fit, in a sentence; "" where that is not known."""
        return self.in_fit.get("in_fit_words", "")

    @classmethod
    def returned(cls, result: Evaluated | Mapping[str, Any], title: str) -> Evaluated:
        """What a task gave; a task of another package may still give a dictionary, which is deprecated.

        Args:
            title: of the task, for the warning.
        """
        if isinstance(result, Evaluated):
            return result
        warnings.warn(
            f"{title}: evaluate() returns a dictionary; return a vladapt.Evaluated",
            DeprecationWarning,
            stacklevel=2,
        )
        own = ("run", "data", "split", "notes", "skipped")
        metrics = {key: value for key, value in result.items() if key not in own and not key.startswith("in_fit")}
        known = {key: value for key, value in result.items() if key.startswith("in_fit")}
        run, data, split = (str(result.get(key, "")) for key in own[:3])
        return cls(run, data, split, metrics, known, result.get("notes"), result.get("skipped") or ())
