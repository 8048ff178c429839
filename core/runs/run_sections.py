"""The sections that runs of all tasks share: what run.json says, verdicts, curves of a training, how sure a small test
set is."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..contracts.images import as_image_size, size_in_words
from ..contracts.run_info import BackboneInfo, BeforeAfter, RunInfo
from ..runtime.files import write_whole
from .folder import without_place
from .plots import curve_picture
from .sections import (
    Cell,
    CodeSection,
    CurveGridSection,
    CurveSection,
    HeadlineSection,
    ListSection,
    Measure,
    Number,
    TableSection,
    Track,
    VerdictSection,
    data_uri,
    is_share,
    plural,
    worded,
    words_of_run,
)

KINDS = {
    "labels": "one label per image",
    "numbers": "one number per image",
    "multilabel": "several labels per image",
    "clips": "one label per clip",
    "boxes": "boxes",
    "masks": "masks",
    "captions": "captions",
}
PAGE = Path(__file__).with_name("report.html.j2")
SMALL_TEST_SET = 100
FEW_GROUPS = 30
ROUNDING = 1e-9
SKIPPED_ROWS = 200
FIRST = ("loss", "val", "lr")
NO_CURVE = ("step", "epoch", "stage")
CURVE_NAMES = {
    "loss": "Loss",
    "val": "Score on val",
    "lr": "Learning rate",
    "grad_norm": "Norm of the gradient",
    "logit_scale": "Logit scale",
    "images_per_second": "Images per second",
    "data_wait": "Share of time waiting for data",
    "memory_gib": "Peak memory, GiB",
}
CAUTION = (
    "These numbers hold for {} like those in the test set. Before the model informs a decision about a person, test it "
    "on images from the place where it will be used. It is not a certified product."
)


def facts(title: str, info: RunInfo, of_task: Mapping[str, Sequence[Any]]) -> TableSection | None:
    """What was done on what. Lines of which nothing is known are left out, and so are terms without lines.

    Args:
        info: as in run.json.
        of_task: term -> lines that the task adds.
    """
    data, speed = info.data, info.samples_per_second
    rows = {
        "Domain and task": [" · ".join(filter(None, (info.domain, info.task)))],
        "Data set": [data.name, KINDS.get(data.kind), data.path if data.path != data.name else None],
        **of_task,
        "Seed": [info.seed],
        "Time taken": [_duration(info.seconds), speed and f"{speed:,.1f} images per second in training"],
    }
    texts = [(term, [str(line) for line in lines if line or type(line) is int]) for term, lines in rows.items()]
    cells = [(term, Cell(lines[0], "\n".join(lines[1:]))) for term, lines in texts if lines]
    return TableSection(title, (), cells, text_columns=2) if cells else None


def backbone_lines(backbone: BackboneInfo) -> list[str]:
    size = backbone.image_size
    return [
        backbone.spec,
        f"images at {size_in_words(as_image_size(size))} pixels" if size else "",
        f"fingerprint {str(backbone.fingerprint)[:16]}" if backbone.fingerprint else "",
    ]


def options(values: Mapping[str, Any] | None) -> str:
    """Such as "alpha = 2, beta = 5.5, lock = none"."""
    return ", ".join(f"{name} = {_value(value)}" for name, value in (values or {}).items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        text = ", ".join(map(_value, value)) or "none"
        return f"[{text}]" if len(value) > 1 else text
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def notes(info: RunInfo) -> ListSection | None:
    sentences = [note if note.endswith((".", "!", "?")) else f"{note}." for note in info.notes]
    return ListSection("Notes of the run", sentences) if sentences else None


def warnings(sentences: Sequence[str]) -> ListSection | None:
    return ListSection("", sentences, warning=True) if sentences else None


def small_test_set(images: int, notes: Sequence[str]) -> list[str]:
    """The sentence on a small test set, unless the notes say it already."""
    if images >= SMALL_TEST_SET or any(f"fewer than {SMALL_TEST_SET}" in note for note in notes):
        return []
    size = f"The test set has {plural(images, 'image')}, fewer than {SMALL_TEST_SET}"
    return [f"{size}: read the intervals, not the single numbers."]


def few_groups(groups: int | None, images: int) -> list[str]:
    """The sentence on a test set of few groups; none where there are no groups."""
    if not groups or groups >= FEW_GROUPS:
        return []
    return [
        f"The {images} test images come from only {plural(groups, 'group')} (patients, for instance). Intervals and "
        f"tests count groups; with fewer than {FEW_GROUPS} they are rough."
    ]


def score_rows(measures: Mapping[str, Measure], before, after, intervals: Mapping[str, Any]) -> list[list[Cell]]:
    """A row per measure that `after` has: name, before and change (where there is a before), after.

    Args:
        measures: key of a metric -> how it is written.
        before: metrics by key, or None.
        intervals: key -> (interval before or None, interval after or None).
    """
    rows = []
    for key, measure in measures.items():
        if key not in after:
            continue
        old = (before or {}).get(key)
        cells = [measure.cell(*each) for each in zip((old, after[key]), intervals.get(key, (None, None)))]
        changed = [with_unit(measure, measure.change(old, after[key]))]
        rows.append([measure.title(), *(cells + changed if before else cells[1:])])
    return rows


def with_unit(measure: Measure, change: Cell) -> Cell:
    """A change of shares, in points."""
    in_points = measure.kind == "share" and change.text != "–"
    return replace(change, text=f"{change.text} points") if in_points else change


def skipped(rows: Sequence[Sequence[str]], noun: str = "file") -> TableSection | None:
    """(name, reason) of what was left out, the first `SKIPPED_ROWS`."""
    if not rows:
        return None
    more = f"; the first {SKIPPED_ROWS} are listed, run.json has all" if len(rows) > SKIPPED_ROWS else ""
    note, title = f"{plural(len(rows), noun)} could not be used{more}.", f"{noun.capitalize()}s left out"
    return TableSection(title, (noun.capitalize(), "Reason"), rows[:SKIPPED_ROWS], note, text_columns=2)


def use(steps: Sequence[tuple[str, str]], of: str = "images") -> CodeSection:
    """How to use a run: (sentence, commands or code, or "")."""
    return CodeSection("How to use it", steps, CAUTION.format(of))


def methods_judged(info: RunInfo) -> TableSection | None:
    """The methods among which a fit took one, with how each did; None where there was no such choice."""
    judged = info.fit.judged
    if not judged:
        return None
    metric = str(judged[0]["metric"])
    rows = [(each["method"], *judged_texts(each), "taken" if each["taken"] else "") for each in judged]
    last = "Standard error"
    note = "Scored on parts of the support, each by a fit on the other parts. The test images were not used."
    if "why" in judged[0]:
        last, note = "Why", "No label was used: the evidence for or against each method comes from the images alone."
    return TableSection("Why this method?", ("Method", metric.capitalize(), last, ""), rows, note, sub=True)


def judged_texts(each: Mapping[str, Any]) -> tuple[str, str]:
    """Score of a method that was judged, and its standard error or the reason; shares in per cent.

    Where all images, or all parts, score alike, they show no spread to tell an error by: that is no error of 0.
    """
    if "why" in each:
        return f"{100 * each['score']:.0f} %", str(each["why"])
    share = is_share(str(each["metric"]).replace(" ", "_"))
    score, error = (f"{100 * each[key]:.1f} %" if share else f"{each[key]:.3f}" for key in ("score", "error"))
    return score, error if each["error"] > ROUNDING else "not known: all alike"


def licences(info: RunInfo, unknown: str = "features from a file") -> TableSection:
    """A row per part; a licence that is not known says so. `unknown`: the name of a backbone that is not in `info`."""
    weights, licence = info.weights
    rows = [
        ("Weights", weights or unknown, _licence(licence)),
        ("Data", info.data.name or "data set", _licence(info.data.licence)),
        ("Software", "vladapt", "Apache-2.0"),
    ]
    return TableSection("Licences", (), rows, text_columns=3)


def _licence(licence: str) -> str:
    return licence if licence and licence != "unknown" else "not known; find out before you share or deploy"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def training_sections(
    rows: Sequence[Mapping[str, float]],
    losses: Mapping[str, float],
    best: int | None,
    parts: str = "Parts of the loss, and the gradient",
) -> list[CurveGridSection | None]:
    """The curves of a training, and those of what its loss consists of; None of none.

    Args:
        rows, losses, best: of `training_curves`.
        parts: title of the second.
    """
    main, minor = training_curves(rows, losses, best)
    return [
        CurveGridSection("How the training went", main) if main else None,
        CurveGridSection(parts, minor, minor=True, sub=True) if minor else None,
    ]


def training_curves(
    history: Sequence[Mapping[str, float]], losses: Mapping[str, float], best_epoch: int | None
) -> tuple[list[CurveSection], list[CurveSection]]:
    """The loss, the score on val, the learning rate and the losses one by one; then their parts, gradient and speed.

    Args:
        history: a row per epoch: "epoch", "loss", "lr", "val", "grad_norm", and losses and their parts by name; or the
            lines of a log (`core/training/log.py`), whose epochs are fractions.
        losses: name -> weight. A single loss of weight 1 is the whole, and has no plot of its own.
        best_epoch: whose weights were kept, from 1; None where nothing chose.
    """
    epochs = [row.get("epoch", place) for place, row in enumerate(history, start=1)]
    stages = [row.get("stage") for row in history]
    pairs = zip(epochs, epochs[1:], stages, stages[1:])
    starts = [(before + after) / 2 for before, after, old, new in pairs if new != old]
    logged = any("step" in row for row in history)
    best = best_epoch if best_epoch in epochs else None
    whole = next(iter(losses), None) if list(losses.values()) == [1.0] else None
    keys = [key for key in dict.fromkeys(key for row in history for key in row) if key not in (*NO_CURVE, whole)]
    rank = {key: (*FIRST, *losses).index(key) if key in FIRST or key in losses else 99 for key in keys}
    main: list[CurveSection] = []
    minor: list[CurveSection] = []
    for key in sorted(keys, key=lambda key: (key not in FIRST, key not in losses, "." not in key, rank[key])):
        points = [(at, row[key]) for at, row in zip(epochs, history) if key in row]  # val has few of the log's lines
        values = [math.nan if value is None else float(value) for _, value in points]
        if not any(map(math.isfinite, values)):
            continue
        name = f"{key}, weight {losses[key]:g}" if key in losses else key.replace(".", ": ", 1).replace("_", " ")
        name, note = CURVE_NAMES.get(key, name), _note(key, epochs, best, bool(starts), logged)
        line = {name: ([at for at, _ in points], values)}
        shown = best if any(at == best for at, _ in points) else None  # a source may have no sample in that step
        plot = CurveSection(name, line, "epoch", name, note, False, shown, key == "val", starts)
        (main if key in FIRST or key in losses else minor).append(plot)
    return main, minor


def _note(key: str, epochs: Sequence[float], best: int | None, staged: bool, logged: bool) -> str:
    if key == "val":
        last = " It is the last one: more epochs may help." if best == epochs[-1] and len(epochs) > 1 else ""
        chosen = "" if best is None else f"; the weights of epoch {best}, the bar, were kept.{last}"
        return f"the higher the better{chosen}"
    seen = f"on images as the training sees them{'; at a dotted line another stage begins' if staged else ''}"
    if logged:
        return {"loss": f"mean of the steps up to each point, {seen}"}.get(key, "")
    return {"loss": f"mean of each epoch, {seen}", "lr": "mean of each epoch"}.get(key, "")


class Verdict(ABC):
    """Base of the verdicts of all tasks."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """For a terminal and a log, one line or several; "" where nothing can be said."""

    @abstractmethod
    def section(self) -> VerdictSection | None:
        """For the report; None where nothing can be said."""


@dataclass(frozen=True, eq=False)
class TowerComparison(BeforeAfter, Verdict):
    """Base of what tasks that train towers read from metrics.json: scores before and after, which judge the change."""

    def headline(
        self, measures: Mapping[str, Measure], columns: Mapping[str, str], unit: str, of: str
    ) -> HeadlineSection:
        """The top of a report: some scores, the first one largest, each with its interval.

        Args:
            measures: metric -> how it is written.
            columns: side -> how it is called.
            unit: what intervals count, such as "people".
            of: the test set, in words.
        """
        first, numbers, tracks, roles = next(iter(measures)), [], {}, {"guessing": "floor", "adapted": "adapted"}
        for key, measure in measures.items():
            was = f"before {measure.text(self.zero_shot[key])}" if self.zero_shot else ""
            numbers.append(Number(measure.name, measure.text(self.adapted[key]), was, main=key == first))
            tracks[measure.name] = [
                Track(name.capitalize(), self[side][key], self.interval(side, key), roles.get(side, ""))
                for side, name in columns.items()
            ]
        return HeadlineSection(numbers, tracks, measures[first], f"with 95 % intervals over {unit}", of)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page shows.

    Attributes:
        kind: what is reported, above the title.
        lead: a sentence or two on the result, below the title.
        created: ISO time, or "".
        sections: see `sections.py`; None is left out.
        versions: of packages, in the footer.
        place: where the run lies and what its files hold, in the footer.
        words: of its domain, as of `Domain.words`.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[Any]
    created: str | None = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    words: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_run(cls, info: RunInfo, **parts: Any) -> Report:
        """Of a run, which says when it was made and with which packages."""
        return cls(created=info.created, versions=info.versions, **{"words": words_of_run(info), **parts})

    def of_evaluation(self, run: str | Path, lead: str) -> Report:
        """The report of a run made again, of an evaluation."""
        place = f"Evaluation of the run {run}, which is unchanged; the numbers are in metrics.json beside this page."
        return replace(self, kind="Report of one evaluation", lead=lead, place=place)

    def with_sections(self, further: Sequence[Any]) -> Report:
        """With sections at its end."""
        return replace(self, sections=[*self.sections, *further]) if further else self


def write_report(folder: str | Path, report: Report) -> Path:
    """Write report.html into a folder. Returns its path.

    Raises:
        DataError: nothing can be written there.
    """
    path = Path(folder) / "report.html"
    write_whole(path, without_place(render_report(report)))
    return path


def render_report(report: Report) -> str:
    """The page as text. It loads nothing, runs nothing, and escapes every name it is given."""
    created = str(report.created or "")[:16].replace("T", " ")
    return page_template(PAGE, tuple(report.words.items())).render(report=report, created=created)


@cache
def page_template(path: Path, words: tuple[tuple[str, str], ...] = ()) -> Any:
    """A template of a page, with the parts of reports at hand; it escapes every name that it is given.

    Args:
        words: of the domain, that all texts are put in.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([path.parent, PAGE.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: worded(value, dict(words)) if type(value) is str else value,
    )
    environment.filters.update(picture=data_uri, plot=curve_picture)
    return environment.get_template(path.name)
