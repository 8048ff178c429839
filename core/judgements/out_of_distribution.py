"""`--holistic`: how well a run tells images of other things from those of its classes.

Scores as published (`core/confidence/unlike_scores.py`), each on the logits of the run and of zero-shot: at the
temperature 1 of the papers, where logits are divided by the logit scale and so are cosines, and at the run's own scale,
where they are the probabilities that it gives. Beside them the distance by which `predict` flags images
(`core/confidence/selective.py`). Which score counts is settled before any image is seen: that distance, or MCM at the
run's own scale where the run keeps none. The best of many on a test set would look better than it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from ..confidence.selective import distances
from ..confidence.unlike_scores import (
    DISTANCE,
    ENERGY,
    ENTROPY,
    FEWEST_FOR_THRESHOLD,
    GL_MCM,
    MAX_LOGIT,
    MCM,
    RECALL,
    VARIANCE,
    Separation,
    class_scores,
    global_and_local,
    local_score,
    separations,
)
from ..contracts.features import VALUE_TOKENS, FeatureSet, TextClassifier
from ..contracts.items import DomainData, items_of
from ..contracts.judgement import JudgedClassifier
from ..contracts.options import option
from ..contracts.prepared import PreparedData, on_adapted
from ..contracts.run_info import AxisScore, Record
from ..errors import ConfigError
from ..metrics.classification import auroc
from ..metrics.intervals import share_interval
from ..runs.sections import Cell, Measure, TableSection, plural
from ._condition import in_two_lines
from ._holistic import ALL, WORST, HolisticJudgement
from ._unlike_sets import UnlikeSet, check_set_places, drawn_samples, places_in, unlike_sets

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from typing_extensions import Self

TITLES = {
    DISTANCE: "Distance to the support",
    MCM: "MCM",
    GL_MCM: "GL-MCM",
    ENERGY: "Energy",
    MAX_LOGIT: "Largest logit",
    ENTROPY: "Entropy",
    VARIANCE: "Variance",
}
PUBLISHED, OWN = "t1", "own"
SCALES = {PUBLISHED: "T = 1", OWN: "own scale"}
UNSCALED = frozenset({DISTANCE, MAX_LOGIT})
"""Scores that rank images alike at any scale."""
NUMBER, SHARE = Measure("", kind="number"), Measure("")
HEADER = ("Score", "Zero-shot AUROC", "AUROC", "AUPR", f"Others that pass where {RECALL:.0%} do")
ZERO_SHOT_ALONE = (
    "GL-MCM is given of zero-shot alone, since the answers of this run are not the cosines of images and class texts"
)
ROUNDING = 2e-3
"""Of cosines that are the same."""
PATCHES_AT_ONCE = 32
"""Images whose patches are held."""


@dataclass(frozen=True)
class SetScores:
    """One set of images of other things.

    Attributes:
        images: that were compared with the test images.
        copies, unreadable: images that were left out.
        scores: name of a score, and its scale -> how well it separates the test images from these.
        zero_shot: the same names -> AUROC of zero-shot.
        flagged, flagged_interval: share that `predict` would flag; None where the run flags none.
    """

    images: int
    copies: int
    unreadable: int
    scores: Mapping[str, Separation]
    zero_shot: Mapping[str, float]
    flagged: float | None = None
    flagged_interval: Sequence[float] | None = None


@dataclass(frozen=True, eq=False)
class UnlikeScores(Record):
    """How well images of other things are told from the test images.

    Attributes:
        images: test images.
        lacking: why there are no scores; "" where there are.
        headline: the score that counts, settled before any image is seen.
        sets: name -> scores.
        drawn: whether the sets are packaged samples, since the user gave none.
        flagged: share of the test images that `predict` would flag; None where the run flags none.
        without: what was left out, and why; "" for nothing.
        lowest: (test row, share of the other images that look more ordinary) of the test images that look the most
            unlike the classes.
    """

    key: ClassVar[str] = "unlike"
    axes: ClassVar = {"unlike": "give --holistic"}
    images: int
    lacking: str = ""
    headline: str = ""
    sets: Mapping[str, SetScores] | None = None
    drawn: bool = False
    flagged: float | None = None
    without: str = ""
    lowest: Sequence[Sequence[float]] = ()

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = dict(metrics[cls.key])
        sets = {name: dict(of) for name, of in (values.pop("sets") or {}).items()}
        for of in sets.values():
            of["scores"] = {name: Separation(**each) for name, each in of["scores"].items()}
        return cls(sets={name: SetScores(**of) for name, of in sets.items()} or None, **values)

    def axis_scores(self) -> Mapping[str, AxisScore | str]:
        """The set that is told worst."""
        if not self.sets:
            return {"unlike": self.lacking}
        of = [each.scores[self.headline] for each in self.sets.values()]
        interval = [min(limits) for limits in zip(*(each.auroc_interval for each in of))]
        beside = [each.zero_shot[f"{MCM}/{OWN}"] for each in self.sets.values() if f"{MCM}/{OWN}" in each.zero_shot]
        zero_shot = min(beside) if len(beside) == len(of) else None
        begins = "the lowest of the 95 % intervals" if len(of) > 1 else "its 95 % interval"
        return {"unlike": AxisScore("Unlike images", min(each.auroc for each in of), interval, zero_shot, begins)}

    def rows(self, scores: Sequence[str] = ()) -> Iterator[tuple[str, SetScores, list[tuple[Any, ...]]]]:
        """Name of a set, its scores, and rows of a table, of some scores or of all."""
        for name, of in (self.sets or {}).items():
            every = dict.fromkeys([*of.scores, *of.zero_shot])
            chosen = [each for each in every if not scores or each in scores]
            yield name, of, [(_title(each), *_cells(of, each)) for each in chosen]

    def section(self) -> TableSection:
        if not self.sets:
            return TableSection("Unlike images", (), [], self.lacking)
        rows: list[Any] = []
        for name, of, cells in self.rows():
            flagged = "" if of.flagged is None else f"; predict flags {SHARE.text(of.flagged)} of them"
            rows += [f"{name}: {_counted(of)}{flagged}", *cells]
        return TableSection("Unlike images", HEADER, rows, self._words(), shares=False)

    def _words(self) -> str:
        flags = "" if self.flagged is None else f" Of the test images, predict flags {SHARE.text(self.flagged)}."
        scores = [score for each in (self.sets or {}).values() for score in each.scores.values()]
        few = not all(score.fpr_interval for score in scores)
        threshold = f", with an interval from {FEWEST_FOR_THRESHOLD} of each on" * few
        samples = " The sets are drawings that come with vladapt; give images of your own with --unlike." * self.drawn
        left_out = f" {self.without[0].upper()}{self.without[1:]}." if self.without else ""
        return (
            f"How well {plural(self.images, 'test image')} and images of other things are told apart. AUROC is the "
            "chance that a test image looks more ordinary than another; the last column says how many of the others "
            f"pass a threshold that {RECALL:.0%} of the test images pass{threshold}. {_title(self.headline)} is the "
            "score that counts, which was settled before any image was seen; the best of all on these images would "
            f"look better than it is.{flags}{samples}{left_out}"
        )

    def pictured(self) -> tuple[str, list[tuple[int, str]]] | None:
        rows = [(int(row), f"{SHARE.text(share)} of the others look more ordinary") for row, share in self.lowest]
        return ("Test images that look the most unlike the classes", rows) if rows else None

    def table(self) -> Table | None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        if not self.sets:
            return None
        table = Table(title="Unlike images", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for title, most in zip(HEADER, (None, 9, None, None, 13)):  # all that fits into a terminal of 80 characters
            left = title == HEADER[0]
            table.add_column(title, justify="left" if left else "right", overflow="fold", max_width=most)
        for name, _, rows in self.rows((self.headline, f"{MCM}/{PUBLISHED}", f"{GL_MCM}/{PUBLISHED}")):
            table.add_row(f"{name}:")
            for title, *cells in rows:
                table.add_row(title, *map(in_two_lines, cells))
        return table

    @property
    def notes(self) -> list[str]:
        if not self.sets:
            return [self.lacking]
        shares = []
        for name, of in self.sets.items():
            score = of.scores[self.headline]
            between = NUMBER.between(score.auroc_interval)
            shares.append(f"{name} {NUMBER.text(score.auroc)} (95 % interval {between}; {_counted(of)})")
        title = "the distance to the support" if self.headline == DISTANCE else _title(self.headline)
        first = f"AUROC of test images against images of other things, by {title}: {', '.join(shares)}"
        return [first, *filter(None, [self.without])]


def _title(score: str) -> str:
    """ "mcm/t1" -> "MCM, T = 1"."""
    name, _, scale = score.partition("/")
    return f"{TITLES[name]}, {SCALES[scale]}" if scale else TITLES[name]


def _cells(of: SetScores, score: str) -> tuple[Cell, ...]:
    zero_shot = Cell(NUMBER.text(of.zero_shot.get(score)))
    if (each := of.scores.get(score)) is None:
        return (zero_shot, *[Cell("–")] * 3)
    return (
        zero_shot,
        NUMBER.cell(each.auroc, each.auroc_interval),
        NUMBER.cell(each.aupr),
        SHARE.cell(each.fpr, each.fpr_interval),
    )


def _counted(of: SetScores) -> str:
    left_out = [f"{of.copies:,} {'copy' if of.copies == 1 else 'copies'} of the run's images"] * bool(of.copies)
    left_out += [f"{of.unreadable:,} unreadable"] * bool(of.unreadable)
    return plural(of.images, "image") + (f", {' and '.join(left_out)} left out" if left_out else "")


@dataclass(eq=False, kw_only=True)
class OutOfDistribution(HolisticJudgement):
    """How well test images and images of other things are told apart."""

    record: ClassVar = UnlikeScores
    unlike: str | None = option(
        None,
        "with --holistic, images of other things that the run should notice: folders, or for a run of a features file "
        "such files; by default samples of other domains",
        parse=lambda value: places_in(value) and str(value),
        metavar="NAME=DIR,...",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.unlike is not None and not self.holistic:
            raise ConfigError("--unlike: only with --holistic; give both, or omit it")

    def check_read(self, data: DomainData) -> None:
        if self.unlike is not None:
            check_set_places(places_in(self.unlike), data)

    def compute(self, fit: JudgedClassifier) -> UnlikeScores:
        most = None if self.holistic_images == ALL else int(self.holistic_images or self.images)
        rows = self.rows_of(fit)
        if self.unlike is not None:
            sets = dict(unlike_sets(places_in(self.unlike), fit, most))
        elif fit.before is None:
            return UnlikeScores(0, "unlike images: not tested, since a features file holds no images; give --unlike")
        else:
            sets = dict(drawn_samples(fit, most))
        scorer = _Scorer(fit, rows)
        if not sets or not scorer.headline:
            why = "no sample of another domain has such images; give --unlike" if not sets else scorer.lacking
            return UnlikeScores(0, f"unlike images: not tested, since {why}")
        return scorer.compared(sets, drawn=self.unlike is None)


class _Scorer:
    """Scores of images by a run and by zero-shot.

    Args:
        rows: test images that are compared.
    """

    def __init__(self, fit: JudgedClassifier, rows: Sequence[int]):
        self.fit, self.rows, prepared = fit, list(rows), fit.prepared
        self.moved = on_adapted(prepared, fit.adapter)
        self.before = prepared.classifier_of(fit.class_names)
        self.after = self.before if self.moved is prepared else self.moved.classifier_of(fit.class_names)
        self.without, self.patches, self.by_texts = "", False, True
        if fit.several_labels:
            self.without = "scores of classes are left out, since images may have several labels"
        elif lacking := _lacks_patches(fit):
            self.without = f"GL-MCM is left out, since {lacking}"
        else:
            self.patches = True
        self.test = fit.test.select(self.rows)
        unlike = None if fit.calibration is None else fit.calibration.unlike
        self.unlike = unlike if unlike is not None and unlike.known else None
        if self.unlike is not None and self.unlike.support.shape[1] != self._seen(prepared, self.test).shape[1]:
            self.unlike = None

    @property
    def headline(self) -> str:
        """The score that counts; "" where there is none."""
        return DISTANCE if self.unlike is not None else "" if self.fit.several_labels else f"{MCM}/{OWN}"

    @property
    def lacking(self) -> str:
        return "images may have several labels, and the run keeps no images that others could be compared with"

    def compared(self, sets: Mapping[str, UnlikeSet], drawn: bool) -> UnlikeScores:
        """All scores of all sets."""
        logits, before = (
            None if each is None else each[self.rows]
            for each in (self.fit.scores.adapted_logits, self.fit.scores.zero_shot_logits)
        )
        if self.patches and not self._answers_by_texts(logits):
            self.by_texts, self.without = False, ZERO_SHOT_ALONE
        own = self._scores(self.fit.prepared, self.test, logits)
        beside = None if before is None else self._zero_shot(self.fit.prepared, self.test)
        made, others = {}, []
        for name, each in sets.items():
            theirs = self._scores(each.prepared, each.features, self._logits(each))
            others.append(theirs[self.headline])
            apart = separations(own, theirs, self._groups(self.fit.scores.groups), each.features.groups)
            zero_shot = {} if beside is None else self._zero_shot(each.prepared, each.features)
            flags = None if self.unlike is None else self._flags(each.prepared, each.features)
            made[name] = SetScores(
                images=len(each.features),
                copies=each.copies,
                unreadable=each.unreadable,
                scores=apart,
                zero_shot={score: _auroc((beside or {})[score], values) for score, values in zero_shot.items()},
                flagged=None if flags is None else float(flags.double().mean()),
                flagged_interval=None if flags is None else share_interval(flags, each.features.groups),
            )
        flags = None if self.unlike is None else self._flags(self.fit.prepared, self.test)
        return UnlikeScores(
            images=len(self.rows),
            headline=self.headline,
            sets=made,
            drawn=drawn,
            flagged=None if flags is None else float(flags.double().mean()),
            without=self.without,
            lowest=self._lowest(own[self.headline], torch.cat(others)),
        )

    def _answers_by_texts(self, logits: Tensor) -> bool:
        """Whether the run's logits are the cosines of images and class texts, as GL-MCM takes them of patches, too."""
        classifier = self.after
        features = F.normalize(self._seen(self.fit.prepared, self.test).float(), dim=-1)
        cosines = (features @ classifier.weights.float().to(features.device).T).cpu()
        return torch.allclose(logits.float().cpu() / classifier.logit_scale, cosines, atol=ROUNDING)

    def _groups(self, groups: Sequence[str] | None) -> list[str] | None:
        return None if groups is None else [groups[row] for row in self.rows]

    def _logits(self, other: UnlikeSet) -> Tensor:
        scores = self.fit.score_again(self.fit.adapter, other.prepared, other.features)
        return scores.adapted_logits if self.fit.columns is None else self.fit.columns(scores.adapted_logits)

    def _scores(self, prepared: PreparedData, features: FeatureSet, logits: Tensor) -> dict[str, Tensor]:
        """Of the run: name, and scale -> (N,)."""
        made = {}
        if not self.fit.several_labels:
            scale = self.after.logit_scale
            made = _at_scales(logits.float().cpu() / scale, scale)
            if self.patches and self.by_texts:
                made |= _with_patches(made, self._local(on_adapted(prepared, self.fit.adapter), features, self.after))
        if self.unlike is not None:
            made[DISTANCE] = -distances(self._seen(prepared, features), self.unlike.support)
        return made

    def _zero_shot(self, prepared: PreparedData, features: FeatureSet) -> dict[str, Tensor]:
        """The same of zero-shot, without the distance."""
        cosines = (features.unit @ self.before.weights.to(features.features.device).T).cpu()
        made = {} if self.fit.several_labels else _at_scales(cosines, self.before.logit_scale)
        if made and self.patches:
            made |= _with_patches(made, self._local(prepared, features, self.before))
        return made

    def _local(self, prepared: PreparedData, features: FeatureSet, classifier: TextClassifier) -> dict[str, Tensor]:
        """Scale -> (N,) of the patches, some images at a time."""
        seen, items = prepared.seen_through(lambda transform: transform), items_of(features.ids, prepared.data.items)
        temperatures, parts = _temperatures(classifier.logit_scale), []
        with self.fit.reporter.task("Looking at patches") as progress:
            for start in range(0, len(items), PATCHES_AT_ONCE):
                some = seen.features(items[start : start + PATCHES_AT_ONCE], "patches", tap=VALUE_TOKENS).features
                patches = some.unflatten(1, (-1, classifier.weights.shape[1]))  # (n, P, D)
                texts = classifier.weights.to(patches.device)
                parts.append(torch.stack([local_score(patches, texts, each).cpu() for each in temperatures.values()]))
                progress(min(start + PATCHES_AT_ONCE, len(items)), len(items))
        return dict(zip(temperatures, torch.cat(parts, dim=1)))

    def _seen(self, prepared: PreparedData, features: FeatureSet) -> Tensor:
        """Features by the towers that the fit made."""
        moved = on_adapted(prepared, self.fit.adapter)
        return features.features if moved is prepared else moved.of_ids(features.ids or ()).features

    def _flags(self, prepared: PreparedData, features: FeatureSet) -> Tensor:
        assert self.unlike is not None
        return self.unlike.flags(self._seen(prepared, features))

    def _lowest(self, own: Tensor, others: Tensor) -> list[tuple[int, float]]:
        """(Test row, share of the others that score higher) of the test images that score lowest."""
        lowest = own.argsort(stable=True)[:WORST].tolist()
        shares = [(self.rows[place], float((others > own[place]).double().mean())) for place in lowest]
        return [(row, share) for row, share in shares if share]


def _lacks_patches(fit: JudgedClassifier) -> str:
    """Why there are no features of patches; "" where there are."""
    for backbone in (fit.before, fit.after):
        if backbone is None:
            return "a features file has no features of patches"
        if "image_blocks" not in backbone.capabilities or backbone.joint is not None:
            return "the image tower has no transformer blocks that give features of patches"
    return "" if fit.reads_texts else "the backbone has no text tower"


def _temperatures(scale: float) -> dict[str, float]:
    return {PUBLISHED: 1.0, OWN: 1 / scale}


def _at_scales(cosines: Tensor, scale: float) -> dict[str, Tensor]:
    """Name, and scale -> (N,)."""
    made = {}
    for name, temperature in _temperatures(scale).items():
        for score, values in class_scores(cosines, temperature).items():
            made[score if score in UNSCALED else f"{score}/{name}"] = values
    return made


def _with_patches(made: Mapping[str, Tensor], local: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GL-MCM at each scale."""
    return {f"{GL_MCM}/{name}": global_and_local(made[f"{MCM}/{name}"], each) for name, each in local.items()}


def _auroc(own: Tensor, others: Tensor) -> float:
    return auroc(torch.cat([own, others]), torch.arange(len(own) + len(others)) < len(own))
