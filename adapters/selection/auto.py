"""Auto: judges fast methods on held-out parts of the support, and takes one of them.

Take it where no method is in mind: it is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, FeatureSet, FitReport, TextClassifier, option
from ...core.errors import CapabilityError, ConfigError, DataError
from ...core.metrics import macro_auroc, row_weights, units_of
from ...core.registry import build_adapter
from . import _without_labels as without_labels

ZERO_SHOT = without_labels.ZERO_SHOT
CANDIDATES = (
    *(ZERO_SHOT, "proker", "gda", "ridge", "lp-plus-plus", "linear-probe", "ape", "nearest-mean", "tip-adapter"),
)
FEW_SHOTS = (ZERO_SHOT, "proker", "lp-plus-plus", "ridge")
AUROC = "macro AUROC"
SHOWN = 2.0
"""Standard errors by which a candidate must be better than zero-shot: one-sided 2.5 %."""
FLOOR = -10.0
"""Log-probability of the right class below which an image counts no further."""
ROUNDING = 1e-9
SINGLE_PARTS = 20
"""Parts, at most, of a support in which a class has one image."""
RULES = ONE_SE, BEST = "one-se", "best"
ENOUGH_JUDGED = 1000
"""Images after which no further part of the support is judged."""
LARGEST = {
    "clap": 50_000,
    "tip-adapter-f": 50_000,
    "ape-t": 50_000,
    "taskres": 60_000,
    "proker": 80_000,
    "lp-plus-plus": 80_000,
    "ape": 300_000,
    "linear-probe": 300_000,
    "tip-adapter": 20_000_000,
    "ridge": 20_000_000,
}
"""Support images times classes up to which a candidate takes some ten seconds in all, on one processor."""


@dataclass(eq=False, kw_only=True)
class Auto(Adapter):
    """Cross-validation over methods (A survey of cross-validation procedures for model selection, Arlot and Celisse,
    2010, arXiv 0907.4728) with the one-standard-error rule of Classification and Regression Trees (Breiman, Friedman,
    Olshen and Stone, 1984). Which methods, and their order, are ours.

    Candidates are methods that take seconds and learn from features alone, zero-shot and logistic regression among
    them. Each is fitted on the support, and chooses its settings as it always does. With these settings it is fitted
    again on four of five parts of the support and judged on the fifth, in turn; images of one group (patient, identity)
    stay in one part.

    The score is accuracy, balanced where classes have unequal numbers of images; with several labels the macro AUROC of
    a part. Candidates are compared image by image (or group by group, part by part): the standard error is that of
    their difference. Zero-shot, the simplest, is kept unless others are shown to be better: with a higher score, and by
    two standard errors of it or of the log-likelihood, which says more about few images than the number of right
    answers does (benchmarks/auto.py). Of those the first of `candidates` whose score is within one standard error of
    the best is taken; so is the first of all where zero-shot is no candidate. They are ordered by how well they do on
    average (docs/measurements/images.md), since a few dozen images cannot tell apart methods that differ by less.

    With fewer than `min_shots` images per class, or where each class comes from one group, candidates are `few_shots`:
    others (`gda`) are another method with half of two images than with both. Where no part can be held out without a
    class losing all its images, a part is an image or a group, up to 20 of them: ProKeR leaves such a class its
    zero-shot score, so that the parts show what it spoils, and not what it gains there. Where zero-shot is no candidate
    then, the first of `few_shots` that can be fitted is taken. A candidate that cannot be fitted (several labels, no
    text), or that would take long (many images of many classes), is left out, and a note says so.

    Without labels, methods that need none are fitted on the images to be classified and judged by evidence from these
    images (`core/confidence/without_labels.py`): of those that are better than zero-shot with a probability of 0.7 or
    more, the one with the greatest gain is taken; if there is none, zero-shot.

    Methods are judged on the support alone, even under a protocol without validation images; what candidates would
    choose on such images then keeps its defaults.

    Raises:
        ConfigError: a candidate needs more than features, or `settings` are of none.
        CapabilityError: no candidate can be fitted.

    Example:
        >>> adapter = build_adapter("auto")
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "ours: checked against an explicit cross-validation, and by what it chooses beside methods that must lose"
    )
    multilabel: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    optional: ClassVar[frozenset[str]] = frozenset({"unlabeled"})
    transductive_unlabelled: ClassVar[bool] = True
    text_free: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {"as_papers": True}
    can: ClassVar[frozenset[str]] = frozenset({"examples"})
    state: ClassVar[tuple[str, ...]] = ("method", "method_options", "numbers", "tensors")
    _method: ClassVar[Adapter | None] = None

    candidates: tuple[str, ...] = option(CANDIDATES, "methods to choose from, preferred ones first")
    few_shots: tuple[str, ...] = option(FEW_SHOTS, "methods for fewer images than min_shots, preferred ones first")
    min_shots: int = option(4, "least images per class (typically) for all candidates to be judged", low=2, high=1000)
    without_labels: tuple[str, ...] = option(without_labels.CANDIDATES, "methods to choose from without labels")
    settings: dict[str, Any] = option(help="options of the candidates, by their names", factory=dict)
    as_papers: bool = option(False, "give candidates the papers' options where ours differ, as protocols do")
    parts: int = option(5, "parts of the support, each judged by a fit on the others", low=2, high=100)
    rule: str = option(
        ONE_SE,
        "the first within one standard error of the best, if shown to beat zero-shot; or the best itself",
        choices=RULES,
    )

    def __post_init__(self):
        super().__post_init__()
        known = dict.fromkeys([*self.candidates, *self.few_shots])
        for name in known:
            _check(build_adapter(name))
        for name in self.without_labels:  # the default ones pass, and one of them imports the training of towers
            if name not in without_labels.CANDIDATES or name in self.settings:
                without_labels.check(self._built(name))
        known |= dict.fromkeys(self.without_labels)
        for name, options in self.settings.items():
            if name not in known:
                raise ConfigError(
                    f"option settings of adapter 'auto': {name} is no candidate; omit it or name it as one"
                )
            if not isinstance(options, Mapping):
                raise ConfigError(f"option settings of adapter 'auto': {name}={options}; give its options")
            build_adapter(name, **options)
        if not self.candidates or not self.few_shots:
            raise ConfigError("adapter 'auto': give at least one method in candidates and one in few_shots")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        if support.labels is None or not len(support):
            return self._fit_without_labels(classifier, unlabeled, seed)
        trial = _Trial(support, classifier, val, seed, self._built)
        folded = support.folds(self.parts, seed)
        enough = _typical_shots(support) >= self.min_shots
        alone = len(self.candidates) == 1
        names = self.candidates if alone or (enough and folded) else self.few_shots
        scores: dict[str, _Score] = {}
        if alone or (names is self.few_shots and not trial.can_fit(ZERO_SHOT, names)):
            taken = next(trial.fits(names), None)
            words = f"fewer than {self.min_shots} images per class to judge methods on"
            words = "most classes come from one group (patient), so that none can be held out" if enough else words
            words = "the only candidate" if alone else words
        else:
            parts = _enough(folded or _single_parts(support, seed))
            fits: dict[str, _Fit] = {}
            for fit in trial.fits(self.followed(names, "methods")):
                fits[fit.adapter.name], scores[fit.adapter.name] = fit, trial.score(fit, parts)
            taken = fits[_taken(scores, self.rule)] if fits else None
            words = f"{len(folded)}-fold cross-validation of the support" if folded else "each image or group held out"
            words += f", {sum(map(len, parts))} images judged"
        if taken is None:
            raise CapabilityError(f"adapter 'auto': no candidate can be fitted: {trial.left_out_words}")
        self._take(taken.adapter)
        return self._report(taken, scores, words, trial)

    def _fit_without_labels(self, classifier, unlabeled: FeatureSet | None, seed: int) -> FitReport:
        trial = without_labels.UnlabelledTrial(unlabeled, classifier, seed, self._built)
        judged = list(trial.judged(self.without_labels))
        taken = trial.taken(judged)
        adapter, report = trial.zero_shot() if taken is None else (taken.adapter, taken.report)
        self._take(adapter)
        report = replace(report, notes=trial.without_advice(report.notes, adapter))
        return without_labels._report_of(self.name, report, judged, taken)

    def _absent_classes(self, classifier: TextClassifier, unlabeled: FeatureSet, base) -> list[str]:
        """Nothing: the method that was taken has said it, and methods were judged on these very images."""
        return []

    def _built(self, name: str) -> Adapter:
        """A candidate, not fitted."""
        papers = build_adapter(name).published_options() if self.as_papers else {}
        papers = {**papers, **without_labels.SETTINGS.get(name, {})}
        return build_adapter(name, **{**papers, **self.settings.get(name, {})})

    def _take(self, adapter: Adapter) -> None:
        values = {name: getattr(adapter, name) for name in adapter.state}
        self.method, self.method_options, self.transductive = adapter.name, adapter.options, adapter.transductive
        self.tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        self.numbers = {name: value for name, value in values.items() if name not in self.tensors}
        self.multilabel_ = adapter.multilabel_
        self._method = None

    def _report(self, taken: _Fit, scores: Mapping[str, _Score], words: str, trial: _Trial) -> FitReport:
        report, name = taken.report, taken.adapter.name
        settings = f"; its settings on {report.chosen_on}" if report.chosen else ""
        why = _why(name, scores, self.rule) if scores else words
        notes = [f"auto took {name}: {why}"] if len(self.candidates) > 1 else []
        notes += [f"left out: {trial.left_out_words}"] if trial.left_out else []
        judged = [
            {"method": each, "score": score.mean, "error": score.error, "metric": score.metric, "taken": each == name}
            for each, score in scores.items()
        ]
        return FitReport(
            self.name,
            {"method": name, **report.chosen},
            words + settings,
            report.val_score,
            report.history,
            [*notes, *report.notes],
            report.trained_parameters,
            judged,
        )

    def settled(self, report: FitReport) -> dict[str, Any]:
        """The method that was taken, with what it chose."""
        own = replace(report, chosen={name: value for name, value in report.chosen.items() if name != "method"})
        settings = {self.method: {**self.method_options, **self.taken.settled(own)}}
        return {**self.options, "candidates": (self.method,), "settings": settings}

    def repeated(self) -> dict[str, Any]:
        """The method that was taken, whose settings are searched anew; methods are judged once."""
        settings = {name: of for name, of in self.settings.items() if name == self.method}
        return {**self.options, "candidates": (self.method,), "settings": settings}

    def to(self, device) -> Auto:
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        self._method = None
        return self

    @property
    def taken(self) -> Adapter:
        """The fitted method itself.

        Raises:
            CapabilityError: not fitted. DataError: what was saved is not that of such a method.
        """
        self.check_fitted()
        if self._method is None:
            self._method = self._restored()
        return self._method

    def _restored(self) -> Adapter:
        method, values = build_adapter(self.method, **self.method_options), {**self.numbers, **self.tensors}
        if "unlabeled" in method.needs:
            without_labels.check(method)
        else:
            _check(method)
        if missing := [name for name in method.state if name not in {**method.later_state, **values}]:
            raise DataError(f"the adapter file of auto lacks {', '.join(missing)} of {self.method}; fit again")
        for name in method.state:
            setattr(method, name, {**method.later_state, **values}[name])
        method.class_names_, method.backbone_, method.dim_ = self.class_names_, self.backbone_, self.dim_
        method.multilabel_, method.fitted_ = self.multilabel_, True
        return method

    def _logits(self, batch: Batch) -> Tensor:
        return self.taken.logits(batch)

    def example_parts(self, batch: Batch, classes: Tensor) -> Tensor | None:
        """Where the method that was taken is such a sum."""
        return self.taken.example_parts(batch, classes) if "examples" in self.taken.can else None


@dataclass(frozen=True)
class _Fit:
    """A candidate, fitted on the whole support."""

    adapter: Adapter
    report: FitReport


@dataclass(frozen=True, eq=False)
class _Score:
    """Of a candidate, on images that its fits did not see.

    Args:
        values: (n,) float64, 1 of images that are right, or the AUROC of a part.
        likelihood: (n,) log-probability of the right class, or the AUROC again.
        weights: (n,) of which the mean is 1.
        unit: (n,) which group an image is of, or the image itself.
    """

    metric: str
    values: Tensor
    likelihood: Tensor
    weights: Tensor
    unit: Tensor

    @property
    def mean(self) -> float:
        return self._mean_and_error(self.values)[0]

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self._mean_and_error(self.values)[1]

    @property
    def text(self) -> str:
        return f"{self.mean:.3f}" if self.metric == AUROC else f"{self.mean:.1%}"

    def gain(self, other: _Score) -> tuple[float, float]:
        """How much better than another on the same images, and the standard error of that."""
        return self._mean_and_error(self.values - other.values)

    def shown_better(self, other: _Score) -> bool:
        """By the score, or by a higher score and the likelihood, which says more about few images."""
        score, likelihood = self.gain(other), self._mean_and_error(self.likelihood - other.likelihood)
        return score[0] > ROUNDING and any(gain > SHOWN * error + ROUNDING for gain, error in (score, likelihood))

    def _mean_and_error(self, values: Tensor) -> tuple[float, float]:
        mean = float((values * self.weights).mean())
        units = int(self.unit.max()) + 1
        off = torch.zeros(units, dtype=torch.float64).index_add_(0, self.unit, self.weights * (values - mean))
        return mean, float((off.square().sum() * units / max(1, units - 1)).sqrt()) / len(values)


@dataclass
class _Trial:
    """What candidates are fitted and judged on.

    Attributes:
        left_out: candidate -> why it was not fitted.
    """

    support: FeatureSet
    classifier: TextClassifier
    val: FeatureSet | None
    seed: int
    build: Callable[[str], Adapter]

    def __post_init__(self):
        self.left_out: dict[str, str] = {}

    @property
    def left_out_words(self) -> str:
        """Reasons, each with the candidates that it keeps out."""
        reasons = dict.fromkeys(self.left_out.values())
        of = {reason: [name for name, why in self.left_out.items() if why == reason] for reason in reasons}
        return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in of.items())

    def fits(self, names: Iterable[str]) -> Iterator[_Fit]:
        """Those of the candidates that can be fitted, one after the other."""
        for name in names:
            adapter = self.build(name)
            if reason := self._hindrance(adapter):
                self.left_out[name] = reason
                continue
            try:
                yield _Fit(adapter, self._fit(adapter, self.support))
            except CapabilityError as error:
                self.left_out[name] = str(error).removeprefix(f"adapter '{name}' ")

    def can_fit(self, name: str, names: Sequence[str]) -> bool:
        """Whether it is one of these methods, and there is what it needs."""
        return name in names and not self._hindrance(self.build(name))

    def score(self, fit: _Fit, parts: Sequence[Tensor]) -> _Score:
        """On each part of the support, by a fit with the same settings on the others."""
        options = {**fit.adapter.options, **fit.adapter.settled(fit.report)}
        logits = []
        for held in parts:
            rest = torch.ones(len(self.support), dtype=torch.bool)
            rest[held] = False
            again = build_adapter(fit.adapter.name, **options)
            self._fit(again, self.support.select(rest.to(self.support.features.device)))
            logits.append(again.logits(self._rows(held)))
        if self.support.multilabel:
            return _of_parts([macro_auroc(z.T[None], self._rows(held).labels.T) for z, held in zip(logits, parts)])
        return _of_answers(torch.cat(logits), self._rows(torch.cat(list(parts))))

    def _fit(self, adapter: Adapter, support: FeatureSet) -> FitReport:
        return adapter.fit(support, self.classifier, val=self.val, seed=self.seed)

    def _rows(self, held: Tensor) -> FeatureSet:
        return self.support.select(held.to(self.support.features.device))

    def _hindrance(self, adapter: Adapter) -> str:
        """Why a candidate is not tried; "" where it is."""
        if self.support.multilabel and not adapter.multilabel:
            return "one label per image"
        if not (adapter.text_free or self.classifier.has_texts):
            return "no class texts"
        images, classes = len(self.support), len(self.classifier)
        if images * classes > LARGEST.get(adapter.name, images * classes):
            return f"{images:,} images of {classes:,} classes would take long"
        return ""


def _check(method: Adapter) -> None:
    """Raise the ConfigError of a method that needs more than features."""
    further = sorted((method.needs | method.at_predict | method.backbone_needs) - {"features", "views"})
    if further or method.transductive or isinstance(method, Auto):
        needed = ", ".join(further).replace("_", " ") or "more"
        raise ConfigError(
            f"adapter 'auto' chooses among methods that learn from features alone, and {method.name} needs {needed}; "
            "omit it in candidates and few_shots"
        )


def _typical_shots(support: FeatureSet) -> float:
    """The median of images per class, or of positives per label, over those that have any."""
    labels = support.labels
    counts = (labels == 1).sum(dim=0) if support.multilabel else torch.bincount(labels)
    counts = counts[counts > 0]
    return float(counts.double().quantile(0.5)) if len(counts) else 0.0


def _enough(parts: Sequence[Tensor]) -> list[Tensor]:
    """The first parts, as many as hold enough images."""
    taken: list[Tensor] = []
    for part in parts:
        if sum(map(len, taken)) >= ENOUGH_JUDGED:
            break
        taken.append(part)
    return taken


def _single_parts(support: FeatureSet, seed: int) -> list[Tensor]:
    """Rows to hold out in turn, of single images or groups, whether or not others of their classes are left."""
    unit, units = units_of(support.groups, len(support))
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    return [torch.isin(unit, some).nonzero().flatten() for some in order.tensor_split(min(units, SINGLE_PARTS))]


def _of_answers(logits: Tensor, rows: FeatureSet) -> _Score:
    """Accuracy of (n, C) logits, each class counting alike."""
    logits, labels = logits.double().cpu(), rows.labels.cpu()
    right = (logits.argmax(dim=1) == labels).double()
    weights = row_weights(labels)
    metric = "accuracy" if weights is None else "balanced accuracy"
    weights = torch.ones_like(right) if weights is None else weights.double()
    likelihood = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0].clamp_min(FLOOR)
    return _Score(metric, right, likelihood, weights, units_of(rows.groups, len(right))[0])


def _of_parts(aurocs: Sequence[Tensor]) -> _Score:
    """Macro AUROC of each part; parts without both kinds of any label tell nothing."""
    known = torch.cat([each for each in aurocs if each.isfinite().all()] or [torch.tensor([0.5])]).double().cpu()
    return _Score(AUROC, known, known, torch.ones_like(known), torch.arange(len(known)))


def _taken(scores: Mapping[str, _Score], rule: str) -> str:
    """The candidate that the rule takes."""
    if rule == ONE_SE:
        scores = _better_than_zero_shot(scores)
    best = scores[max(scores, key=lambda name: scores[name].mean)]  # of equal ones the first
    return next(name for name, score in scores.items() if score is best or (rule == ONE_SE and _near(score, best)))


def _better_than_zero_shot(scores: Mapping[str, _Score]) -> Mapping[str, _Score]:
    """Those that are shown to be; zero-shot where there are none, and all where it is no candidate."""
    if ZERO_SHOT not in scores:
        return scores
    better = {name: score for name, score in scores.items() if score.shown_better(scores[ZERO_SHOT])}
    return better or {ZERO_SHOT: scores[ZERO_SHOT]}


def _near(score: _Score, best: _Score) -> bool:
    gain, error = best.gain(score)
    return gain <= error + ROUNDING  # of one image more that is right the two are equal


def _why(name: str, scores: Mapping[str, _Score], rule: str) -> str:
    """In a sentence."""
    own, every = scores[name], scores
    reached = f"{own.metric} {own.text} in cross-validation"
    if rule == ONE_SE and ZERO_SHOT in scores:
        if name == ZERO_SHOT:
            return f"{reached}, and no other is shown to be better"
        reached += f" (zero-shot {scores[ZERO_SHOT].text}, which it is shown to beat)"
        scores = _better_than_zero_shot(scores)
    best = max(scores, key=lambda each: scores[each].mean)
    if name == best:
        alone = all(score.mean <= own.mean for score in every.values())
        return f"{reached}, and no other {'' if alone else 'that is shown to beat zero-shot '}does better"
    return f"{reached}, within one standard error of the best ({best}, {scores[best].text}), and earlier in the list"
