"""What a report shows, as data: tables, curves, pictures and the like, and how scores and images are written in
them.

Each looks the same in every report.

`kind` names the macro of `report_sections.html.j2` that lays a section out; `sub`: it belongs to the section before.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, ParamSpec, TypeVar

import numpy as np

from ..errors import UnknownNameError, VladaptError
from ..registry import load_domain, task_class

if TYPE_CHECKING:
    from ..contracts.adapter import FitReport
    from ..contracts.domain import Domain
    from ..contracts.run_info import RunInfo
    from ..metrics.significance import CalibrationBin


P = ParamSpec("P")
R = TypeVar("R")
SHARES = re.compile(r"(^|_)(AP|AR|[mh]?IoU|accuracy|recall|precision|f1|dice)(\d*|_at_\d+)(_|$)")
NOT_A_SAMPLE = (
    r"(?!-(?!text pairs)|[_/\w]|\.\w| (?:features?|towers?|encoders?|size|with its text)\b|s? at \d| \S*\.[a-z]\w)"
)
"""Behind a word that is no name for samples: of a tower, a file, a size."""
QUOTED = r"“[^”]*”|`[^`]*`|'[^']*'"
MOST_DESCRIBED = 12
"""Curves of one plot that its words describe."""


MOST_IN_STRIP = 6
"""Parts of a sample that are shown next to each other."""


@dataclass(frozen=True)
class Cell:
    """A cell that is more than a value: lines in `small` type below the text, a `tone` ("up", "down" or ""), a `shift`
    (before, after), both in 0..1, drawn as two dots on a line."""

    text: str
    small: str = ""
    tone: str = ""
    shift: tuple[float, float] | None = None


@dataclass(frozen=True)
class Measure:
    """How a score is named, explained and written.

    Args:
        kind: "share" (0..1, written in per cent), "number" or "rank".
        falls: the lower the better.
    """

    name: str
    meaning: str = ""
    kind: str = "share"
    falls: bool = False

    def text(self, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "–"
        return {"share": f"{value:.1%}", "rank": f"{value:,.1f}"}.get(self.kind, f"{value:.3f}")

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return "↓" if self.falls else "↑"

    def between(self, bounds: Sequence[float] | None) -> str:
        """An interval; "" where there is none."""
        return f"{self.text(bounds[0])} to {self.text(bounds[1])}" if bounds else ""

    def title(self) -> Cell:
        """The first cell of its row: the name, which way is better, and what it means."""
        return Cell(f"{self.name} {self.arrow}", self.meaning)

    def cell(self, value: float | None, bounds: Sequence[float] | None = None) -> Cell:
        """A value, and its interval where there is one."""
        return Cell(self.text(value), self.between(bounds))

    def change(self, before: float | None, after: float | None) -> Cell:
        """A signed change, of shares in points."""
        if before is None or after is None:
            return Cell("–")
        change = round(after - before, 1 if self.kind == "rank" else 3) + 0.0  # no -0.0
        text = {"share": f"{100 * change:+.1f}", "rank": f"{change:+,.1f}"}.get(self.kind, f"{change:+.3f}")
        better = change < 0 if self.falls else change > 0
        return Cell(text.replace("-", "−"), tone="" if not change else "up" if better else "down")


@dataclass(frozen=True)
class TableSection:
    """Rows of texts and numbers under a title; numbers from 0 to 1 are shown as percentages where `shares` is set.

    Args:
        header: names of the columns; may be empty.
        rows: a text first, then texts, numbers, None or `Cell`s; a row that is a string is a heading over others.
        note: a sentence under the title, or "".
        text_columns: leading columns that hold words.
        total: a last row that sums up.
    """

    title: str
    header: Sequence[str | Cell]
    rows: Sequence[Sequence[str | float | int | Cell | None] | str]
    note: str = ""
    shares: bool = True
    text_columns: int = 1
    total: Sequence[str | int] = ()
    sub: bool = False
    kind: ClassVar = "table"

    def cell(self, value: Any) -> Cell:
        if isinstance(value, Cell):
            return value
        if isinstance(value, (float, np.floating)):
            return Cell(number(value, self.shares))
        return Cell("–" if value is None else f"{value:,}" if isinstance(value, int) else str(value))


@dataclass(frozen=True)
class PictureSection:
    """Pictures with a line under each.

    Args:
        pictures: (image (H, W, 3) uint8, caption).
        note: a sentence under the title, or "".
        side: the longer side they are shown with, in pixels.
        columns: so many next to each other, for pictures that belong together; None as many as there is room for.
    """

    title: str
    pictures: Sequence[tuple[np.ndarray, str]]
    note: str = ""
    side: int = 420
    columns: int | None = None
    kind: ClassVar = "pictures"

    @staticmethod
    def strip(parts: np.ndarray, most: int = MOST_IN_STRIP) -> np.ndarray:
        """Parts of a sample (frames of a clip, slices of a volume) next to each other, as one picture (H, W, C).

        Args:
            parts: (T, H, W, C); of more than `most` so many are shown, from the first to the last.
        """
        shown = np.linspace(0, len(parts) - 1, min(len(parts), most)).round().astype(int)
        white = 255 if parts.dtype == np.uint8 else 1
        gap = np.full((parts.shape[1], max(1, parts.shape[2] // 40), parts.shape[3]), white, parts.dtype)
        pieces = [piece for place in shown for piece in (np.asarray(parts[place]), gap)]
        return np.concatenate(pieces[:-1], axis=1)


@dataclass(frozen=True)
class CurveSection:
    """Curves in one plot.

    Args:
        curves: name -> (xs, ys).
        x, y: what the axes are.
        note: a sentence under the title, or "".
        unit: both axes go from 0 to 1.
        marked: the x of a bar, or None; `ring` puts a ring on the curve there.
        dividers: the xs of dotted lines.
    """

    title: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x: str
    y: str
    note: str = ""
    unit: bool = True
    marked: float | None = None
    ring: bool = False
    dividers: Sequence[float] = ()
    kind: ClassVar = "curve"

    @staticmethod
    def side_by_side(title: str, plots: Sequence[CurveSection]) -> CurveGridSection:
        """Small plots next to each other."""
        return CurveGridSection(title, plots)

    @property
    def alt(self) -> str:
        """The plot in words: of several curves their ends, of one also its extremes."""
        finite = {name: [(x, y) for x, y in zip(xs, ys) if math.isfinite(y)] for name, (xs, ys) in self.curves.items()}
        filled = [(name, points) for name, points in finite.items() if points][:MOST_DESCRIBED]
        ends = "; ".join(f"{name}: {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in filled)
        if len(filled) == 1:
            points = filled[0][1]
            low, high = min(points, key=lambda at: at[1]), max(points, key=lambda at: at[1])
            ends += f", lowest {low[1]:.4g} at {self.x} {low[0]:g}, highest {high[1]:.4g} at {self.x} {high[0]:g}"
        return f"{self.y} over {self.x}. {ends}."


@dataclass(frozen=True)
class CurveGridSection:
    """Small plots next to each other, each under its own title; `minor` ones are smaller still."""

    title: str
    plots: Sequence[CurveSection]
    minor: bool = False
    sub: bool = False
    kind: ClassVar = "curves"


class Line(NamedTuple):
    """A line of a `Plot`; `role` is "after" (in colour), "before" (grey) or "ideal" (dashed)."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    role: str = "after"

    @property
    def points(self) -> list[tuple[float, float]]:
        return list(zip(self.xs, self.ys))


class Mark(NamedTuple):
    """A point of a `Plot`, with the intervals of both its numbers."""

    name: str
    x: float
    y: float
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """Lines over 0 to 1 from `low` to `high`; what lies beyond these is not drawn. `x` and `y`: what the axes are.
    `mark` lies between `low` and `high`."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    low: float = 0.0
    high: float = 1.0
    mark: Mark | None = None

    @property
    def alt(self) -> str:
        """The plot in words: the ends of each line, and the mark."""
        ends = [f"{line.name}: {line.ys[0]:.3g} to {line.ys[-1]:.3g}" for line in self.lines if len(line.ys)]
        marks = [] if self.mark is None else [f"{self.mark.name}: {self.mark.y:.3g} at {self.mark.x:.3g}"]
        return f"{self.y} over {self.x}. {'; '.join(ends + marks)}."


@dataclass(frozen=True)
class PlotSection:
    """Small plots next to each other, and a sentence on their lines."""

    title: str
    plots: Sequence[Plot]
    note: str = ""
    sub: bool = False
    kind: ClassVar = "plots"


class Number(NamedTuple):
    """A number in large type under its name, with a few words beside it; `main` colours it."""

    name: str
    text: str
    words: str = ""
    main: bool = False


class Track(NamedTuple):
    """A score with its interval on a line from 0 to 1; `role` is "floor" (what guessing gets), "adapted" or ""."""

    name: str
    value: float
    interval: Sequence[float] | None = None
    role: str = ""


@dataclass(frozen=True)
class HeadlineSection:
    """The numbers that decide.

    Args:
        tracks: heading, or "", -> scores of one measure.
        interval: what the intervals are, or ""; `of`: the test set they are given; `footnote`: a sentence more.
    """

    numbers: Sequence[Number]
    tracks: Mapping[str, Sequence[Track]] = field(default_factory=dict)
    measure: Measure = Measure("")
    interval: str = ""
    of: str = ""
    footnote: str = ""
    kind: ClassVar = "headline"


class Bar(NamedTuple):
    """A score with its interval, and the score before, or None."""

    name: str
    value: float
    interval: Sequence[float] | None = None
    before: float | None = None


@dataclass(frozen=True)
class BarsSection:
    """Scores from 0 to 1 as bars below each other, each with a thin one of zero-shot below it."""

    title: str
    bars: Sequence[Bar]
    note: str = ""
    measure: Measure = Measure("")
    kind: ClassVar = "bars"


@dataclass(frozen=True)
class VerdictSection:
    """What scores mean, for a reader without statistics: `tone` is "good", "bad" or "open", a line of `text` is a
    paragraph, `heading` stands above."""

    tone: str
    title: str
    text: str
    heading: str = ""
    kind: ClassVar = "verdict"


@dataclass(frozen=True)
class ListSection:
    """Sentences below each other; `warning` puts each in a box."""

    title: str
    sentences: Sequence[str]
    warning: bool = False
    sub: ClassVar = True
    kind: ClassVar = "sentences"


@dataclass(frozen=True)
class ConfusionSection:
    """Counts (C, C): rows are true classes, columns what they were called."""

    title: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    kind: ClassVar = "confusion"


@dataclass(frozen=True)
class CalibrationSection:
    """A reliability diagram of (name, calibration error, bins), after and, or None, before; `labels`: of the single
    labels of an image, not of answers."""

    title: str
    before: tuple[str, float | None, Sequence[CalibrationBin]] | None
    after: tuple[str, float | None, Sequence[CalibrationBin]]
    words: str
    labels: bool = False
    kind: ClassVar = "calibration"


class Reasons(NamedTuple):
    """Why an image was called what it was: the heat map over it as a data: address, or None; (data: address or None,
    labels, number) of labelled images; and a sentence, or ""."""

    overlay: str | None
    examples: Sequence[tuple[str | None, str, str]]
    words: str = ""


@dataclass(frozen=True)
class MistakeSection:
    """(image, name, true class, what it was called, confidence in 0..1); an image is a data: address, None where it
    cannot be read; `pictured`: there are images at all; `strips`: each is a row of several pictures; `reasons` of each,
    or none, and what is to be said of them."""

    title: str
    mistakes: Sequence[tuple[str | None, str, str, str, float]]
    pictured: bool
    strips: bool = False
    reasons: Sequence[Reasons] = ()
    reasons_note: str = ""
    kind: ClassVar = "mistakes"


@dataclass(frozen=True)
class ExplanationSection:
    """(image as a data: address or None, name, answer, its confidence in 0..1, why) of new images."""

    title: str
    answers: Sequence[tuple[str | None, str, str, float, Reasons]]
    note: str = ""
    kind: ClassVar = "explanations"


class Search(NamedTuple):
    """What a query finds: `rank` is that of its own image, `tone` "up", "down" or "", a result (data: address or None,
    score, "right", "same" or "")."""

    when: str
    rank: int
    tone: str
    results: Sequence[tuple[str | None, float, str]]


@dataclass(frozen=True)
class SearchSection:
    """(caption, its own image as a data: address or None, searches) per query that can be shown.

    Args:
        among: images that each searches.
        left_out: queries whose image cannot be read.
    """

    title: str
    queries: Sequence[tuple[str, str | None, Sequence[Search]]]
    among: int
    left_out: int
    kind: ClassVar = "searches"


@dataclass(frozen=True)
class CodeSection:
    """(sentence, commands or code, or "") one after the other, and a sentence below."""

    title: str
    steps: Sequence[tuple[str, str]]
    footnote: str = ""
    kind: ClassVar = "code"


def is_share(name: str) -> bool:
    """Whether a metric of this name lies in 0..1 and is read as a percentage: AP50, novel_AP, mIoU, pixel_accuracy."""
    return SHARES.search(name) is not None


def number(value: float | None, share: bool) -> str:
    """A share as a percentage; what is not a share, or given in per cent already, as it is."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if share and 0 <= value <= 1 else f"{value:.4g}"


def worded(text: str, words: Mapping[str, str]) -> str:
    """A text of ours in the words of a domain (`Domain.words`); what is quoted and names of files stay."""
    if not words:
        return text
    nouns = "|".join(sorted(map(re.escape, words), key=len, reverse=True))

    def of_domain(match: re.Match[str]) -> str:
        if match["word"] is None:
            return match[0]
        word = words[match["word"].lower()]
        article = match["article"] or ""
        article = article[0] + article[2:] if article and word[0] not in "aeiou" else article
        if match["word"].isupper():
            return article + word.upper()
        return article + (word[0].upper() + word[1:] if match["word"][0].isupper() else word)

    pattern = rf"{QUOTED}|(?<![-_/.\w])(?P<article>[Aa]n )?(?<![-_/.\w])(?<!generic )(?P<word>{nouns}){NOT_A_SAMPLE}"
    return re.sub(pattern, of_domain, text, flags=re.IGNORECASE)


@contextmanager
def errors_in_words(task: Any, reading: Mapping[str, Any] | None) -> Iterator[None]:
    """Errors of ours that are raised inside speak of samples as the domain of a task does.

    Args:
        reading: options of the domain's reader, of a recipe.
    """
    try:
        yield
    except VladaptError as error:
        error.args = (error_in_words(str(error), words_of_task(task, reading or {})),)
        raise


def errors_worded(words: Callable[..., Mapping[str, str]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `errors_in_words`, of all that a function raises.

    Args:
        words: from the function's arguments.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def worded_errors(*args: P.args, **given: P.kwargs) -> R:
            try:
                return function(*args, **given)
            except VladaptError as error:
                with suppress(VladaptError):
                    error.args = (error_in_words(str(error), words(*args, **given)),)
                raise

        return worded_errors

    return decorated


def error_in_words(message: str, words: Mapping[str, str], places: Collection[str] = ()) -> str:
    """A message in the words of a domain; the place before its first colon stays: a flag, a word, or one of these."""
    place, colon, rest = message.partition(": ")
    if colon and (place.startswith("--") or " " not in place or place in places):
        return place + colon + worded(rest, words)
    return worded(message, words)


def words_of_task(task: Any, reading: Mapping[str, Any]) -> Mapping[str, str]:
    """What a task, in its domain, calls images and patients; none of a features file."""
    return {} if task.domain is None else {**task.domain.words_of(reading), **task.words}


def words_of_run(info: RunInfo) -> Mapping[str, str]:
    """`words_in` of a run, where it has none of its own; none of a domain of the caller's own, or one that is not
    installed here."""
    if info.words is not None:
        return info.words
    with suppress(UnknownNameError):
        return words_in(info.domain, info.task, info.recipe.get("data") or {})
    return {}


def words_in(domain: str | Domain | None, task: str | None, reading: Mapping[str, Any]) -> Mapping[str, str]:
    """What a domain, and a task in it, call images and patients.

    Args:
        reading: options of the domain's reader.

    Raises:
        UnknownNameError: no domain or task of that name.
    """
    named = load_domain(domain) if isinstance(domain, str) else domain
    words = named.words_of(reading) if named else {}
    return {**words, **task_class(task).words} if task else words


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def choice(report: FitReport) -> str:
    """One line on what the fit chose and on what, or "" where there was nothing to choose."""
    if not report.chosen:
        return ""
    return f"Chosen: {in_words(report.chosen)} – {report.chosen_on}."


def in_words(values: Mapping[str, Any]) -> str:
    """{"alpha": 2.1300000000000003} -> "alpha 2.13"."""
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(value, "none")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(_value(inner) for inner in value)
    return str(value)


AT_HALF = "_at_half"
"""After the names of metrics of several labels that are answered from a probability of 0.5 on."""
MEASURES = {
    "accuracy": Measure("Accuracy", "share of test images classified correctly"),
    "top_5_accuracy": Measure("Top-5 accuracy", "share whose class is among the five with the highest scores"),
    "balanced_accuracy": Measure("Balanced accuracy", "the same, with every class counted alike"),
    "macro_f1": Measure("Macro F1", "balance of recall and precision, mean over classes; 1 is best", "number"),
    "auroc": Measure(
        "AUROC", "chance that an image with the class scores above one without it; 0.5 is guessing", "number"
    ),
    "mean_average_precision": Measure("Mean average precision", "over all thresholds, mean over labels", "number"),
    "macro_f1_at_half": Measure("Macro F1 at 0.5", "the same, with a threshold of 0.5 on raw probabilities", "number"),
    "accuracy_at_half": Measure(
        "Accuracy at 0.5", "share of known labels that are right, with a threshold of 0.5 on raw probabilities"
    ),
    "ece": Measure("Calibration error", "mean gap between confidence and accuracy; 0 is best", "number", falls=True),
    "ece_uncalibrated": Measure(
        "Calibration error, raw", "the same, for confidences before calibration", "number", falls=True
    ),
}


def deciding_of(metrics: Mapping[str, Any]) -> str:
    """The metric that decides; older files do not say."""
    several = any(key.startswith("auroc/") for key in metrics.get("adapted") or {})
    return metrics.get("deciding") or ("auroc" if several else "accuracy")


def points(measure: Measure, difference: float, unit: bool = True) -> str:
    """A difference, of shares in points."""
    text = measure.change(0.0, difference).text
    return f"{text} points" if unit and measure.kind == "share" else text


def data_uri(image: np.ndarray, side: int = 168) -> str:
    """A decoded image as a small JPEG in a data: address.

    Args:
        image: (H, W, 3) uint8, or float in 0..1; of a clip (T, H, W, 3) the middle frame is shown, of more channels the
            first three.
        side: the longer side in pixels; smaller images keep their size.
    """
    from PIL import Image

    image = np.asarray(image)
    if image.ndim == 4:
        image = image[len(image) // 2]
    image = image[..., :3] if image.ndim == 3 else image
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return address_of("jpeg", buffer)


def address_of(kind: str, buffer: io.BytesIO) -> str:
    """A picture in a data: address; `kind` is "jpeg" or "png"."""
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
