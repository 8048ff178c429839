"""`--holistic`: whether a change of test images that nobody sees, found by gradients, changes the answer.

The gradients go through the tower and the fitted method: PGD ("Towards Deep Learning Models Resistant to Adversarial
Attacks", Madry et al., 2017, arXiv 1706.06083) or, by
`--attack apgd`, AutoAttack's gradient attacks ("Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", Croce and Hein, 2020, arXiv 2003.01690). The loss is `log_odds` in place of
cross-entropy, whose gradient has the same sign and vanishes where a run is sure. An image counts as right where its
answer is, as it is and attacked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.features import Batch
from ..contracts.items import DomainData, items_of
from ..contracts.judgement import JudgedClassifier
from ..contracts.options import option
from ..contracts.run_info import AxisScore, Record
from ..errors import ConfigError
from ..robustness.apgd import fooled_by_apgd, log_odds_against
from ..robustness.pgd import LEVELS, ascent, drawn_offsets, pgd
from ..runs.sections import Cell, TableSection, plural
from ._condition import SHARE, ConditionScores, printed
from ._holistic import HolisticJudgement, worst_rows

if TYPE_CHECKING:
    from rich.table import Table
    from typing_extensions import Self

RADII = (2, 4)
"""Largest changes of a pixel, in 255ths."""
STEP, STEPS = 1, 10
"""Of PGD; a step in 255ths."""
AT_ONCE = 32
ATTACKS = ("pgd", "apgd")
SEEN = frozenset({"features", "pre_projection", "pixels", "text_encoder"})
"""What a method may ask for at prediction, to be attacked."""
TITLE = "Attacked images"
HEADER = ("Largest change of a pixel", "Zero-shot", "This run", "Change", "Over zero-shot")
AXIS = {f"attacked_{radius}": radius for radius in RADII}
Logits = Callable[[Tensor], Tensor]
"""Images (B, 3, S, S) in 0..1 -> (B, C)."""


@dataclass(frozen=True, eq=False)
class AttackScores(Record):
    """Accuracy on attacked test images.

    Attributes:
        images: test images that were attacked.
        lacking: why there are no scores; "" where there are.
        attack: "pgd" or "apgd".
        clean, clean_zero_shot: accuracy on these images as they are.
        radii: largest change, in 255ths -> scores; zero-shot is attacked by itself.
        without_gradient: images whose answer has no gradient, and which therefore cannot be attacked so.
        worst: (test row, by how many attacks its right answer was changed).
    """

    key: ClassVar[str] = "attacks"
    axes: ClassVar = dict.fromkeys(AXIS, "give --holistic")
    images: int
    lacking: str = ""
    attack: str = ATTACKS[0]
    clean: float = 0.0
    clean_zero_shot: float | None = None
    radii: Mapping[str, ConditionScores] | None = None
    without_gradient: int = 0
    worst: Sequence[Sequence[int]] = ()

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = dict(metrics[cls.key])
        radii = values.pop("radii")
        return cls(radii=radii and {name: ConditionScores(**of) for name, of in radii.items()}, **values)

    def rows(self) -> list[tuple[str | Cell, ...]]:
        """Of a table."""
        clean = ("None", Cell(SHARE.text(self.clean_zero_shot)), Cell(SHARE.text(self.clean)), "", "")
        return [clean, *((f"{radius}/{LEVELS}", *of.cells()) for radius, of in (self.radii or {}).items())]

    def section(self) -> TableSection:
        if self.radii is None:
            return TableSection(TITLE, (), [], self.lacking)
        how = f"PGD, {STEPS} steps" if self.attack == ATTACKS[0] else "APGD, cross-entropy and targeted, 100 steps each"
        note = (
            f"{plural(self.images, 'test image')}, at the size that the tower sees ({how}). Gradients go through the "
            "tower and the fitted method; zero-shot is attacked by its own. An answer counts as right that is right "
            "before and after."
        )
        if self.without_gradient:
            note += f" The answers of {plural(self.without_gradient, 'image')} have no gradient."
        return TableSection(TITLE, HEADER, self.rows(), note)

    def pictured(self) -> tuple[str, list[tuple[int, str]]] | None:
        count = len(self.radii or ())
        rows = [(row, f"fooled by {times} of {count} attacks") for row, times in self.worst]
        return ("Fooled by the smallest changes", rows) if rows else None

    def axis_scores(self) -> Mapping[str, AxisScore | str]:
        if self.radii is None:
            return dict.fromkeys(AXIS, self.lacking)
        scores = {name: (radius, self.radii[str(radius)]) for name, radius in AXIS.items()}
        return {
            name: AxisScore(f"Attacked by {radius}/{LEVELS}", of.accuracy, of.interval, of.zero_shot)
            for name, (radius, of) in scores.items()
        }

    def table(self) -> Table | None:
        return None if self.radii is None else printed(f"{TITLE} ({self.attack})", HEADER, self.rows())

    def note(self) -> str:
        if self.radii is None:
            return self.lacking
        scores = ", ".join(
            f"{SHARE.text(of.accuracy)} of the images where pixels change by at most {radius}/{LEVELS} (zero-shot "
            f"{SHARE.text(of.zero_shot)})"
            for radius, of in self.radii.items()
        )
        return f"under attack by {self.attack} the run is right on {scores}; without, on {SHARE.text(self.clean)}"


@dataclass(eq=False, kw_only=True)
class Attacks(HolisticJudgement):
    """Accuracy on test images that are attacked through the tower and the method."""

    record: ClassVar = AttackScores
    images: ClassVar[int] = 64
    attack: str | None = option(None, "how --holistic attacks images: pgd by default, or apgd", choices=ATTACKS)

    def check_holistic(self) -> None:
        super().check_holistic()
        if self.attack is not None and not self.holistic:
            raise ConfigError("--attack: only with --holistic; give both, or omit it")

    def check_read(self, data: DomainData) -> None:
        if self.attack is not None and not data.has_images:
            raise ConfigError(f"--attack {self.attack}: {data.name} holds features and no images to attack; omit it")

    def compute(self, fit: JudgedClassifier) -> AttackScores:
        if lacking := _lacking(fit):
            return AttackScores(0, f"attacks: not made, since {lacking}")
        assert fit.before is not None and fit.after is not None and fit.labels is not None
        rows, attack, every = self.rows_of(fit), self.attack or ATTACKS[0], fit.test.ids
        assert every is not None
        ids, labels = [every[row] for row in rows], fit.labels[rows]
        models = {"run": (_of_run(fit), fit.after)}
        classifier = fit.prepared.classifier_of(fit.class_names)
        if classifier.has_texts:
            models["zero_shot"] = (_of_zero_shot(fit.before, classifier.to(fit.before.device)), fit.before)
        right: dict[str, list[Tensor]] = {name: [] for name in models}  # (1 + R, n) each
        unmoved = 0
        with fit.reporter.task("Attacking test images") as progress:
            for start in range(0, len(rows), AT_ONCE):
                images = _pixels(fit, ids[start : start + AT_ONCE])
                if isinstance(images, str):
                    return AttackScores(0, f"attacks: not made, since {images}")
                own = labels[start : start + AT_ONCE]
                for name, (logits_of, backbone) in models.items():
                    slopes = _slopes(logits_of, images.to(backbone.device), own.to(backbone.device))
                    if slopes is None:
                        why = f"the answers of {fit.adapter.name} have no gradient by the pixels"
                        return AttackScores(0, f"attacks: not made, since {why}")
                    unmoved += int((slopes == 0).sum()) if name == "run" else 0
                    right[name].append(_right(logits_of, images.to(backbone.device), own, attack, fit.seed))
                progress(min(start + AT_ONCE, len(rows)), len(rows))
        groups = None if fit.scores.groups is None else list(map(fit.scores.groups.__getitem__, rows))
        run, *others = (torch.cat(parts, dim=1) for parts in right.values())
        before = others[0] if others else None
        radii = {
            str(radius): ConditionScores.of(run[0], run[at], None if before is None else before[at], groups)
            for at, radius in enumerate(RADII, start=1)
        }
        return AttackScores(
            images=len(rows),
            attack=attack,
            clean=float(run[0].double().mean()),
            clean_zero_shot=None if before is None else float(before[0].double().mean()),
            radii=radii,
            without_gradient=unmoved,
            worst=worst_rows(rows, (run[:1] & ~run[1:]).T),
        )


def _lacking(fit: JudgedClassifier) -> str:
    """Why a run cannot be judged so; "" where it can."""
    if fit.before is None or fit.after is None:
        return "a features file holds no images"
    if fit.several_labels:
        return "images may have several labels"
    if len(fit.class_names) < 2:
        return "there is one class"
    if fit.sees_parts or fit.after.of_parts:
        return "samples have several parts"
    if fit.after.in_rows:
        return "the tower keeps the aspect ratio of images"
    if further := sorted(fit.adapter.at_predict - SEEN):
        return f"{fit.adapter.name} asks for {further[0].replace('_', ' ')} besides features of the whole image"
    return ""


def _pixels(fit: JudgedClassifier, ids: Sequence[str]) -> Tensor | str:
    """(n, C, S, S) in 0..1, at the size that the tower sees; or why not."""
    data, domain = fit.prepared.data, fit.prepared.domain
    assert domain is not None and fit.before is not None
    transform = domain.transforms(fit.before, False, fit.prepared.task)
    pixels = [transform(data.load(item)) for item in items_of(ids, data.items)]
    if pixels[0].ndim != 3:
        return "samples have several parts"
    mean, std = _channels(fit.before, pixels[0])
    return (torch.stack(pixels) * std + mean).clamp(0, 1)


def _of_run(fit: JudgedClassifier) -> Logits:
    adapter, backbone = fit.adapter, fit.after
    assert backbone is not None
    needs, columns, place = adapter.at_predict, fit.columns or (lambda logits: logits), fit.test.features.device

    def logits(images: Tensor) -> Tensor:
        pixels = _normalised(backbone, images)
        batch = Batch(
            features=backbone.encode_image(pixels, normalize=False).to(place),
            pixels=pixels if "pixels" in needs else None,
            pre_projection=backbone.hidden(pixels).to(place) if "pre_projection" in needs else None,
        )
        return columns(adapter.logits(batch)).float().to(images.device)

    return logits


def _of_zero_shot(backbone: Backbone, classifier: Any) -> Logits:
    return lambda images: classifier.logits(backbone.encode_image(_normalised(backbone, images)))


def _normalised(backbone: Backbone, images: Tensor) -> Tensor:
    mean, std = _channels(backbone, images)
    return (images - mean) / std


def _channels(backbone: Backbone, like: Tensor) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) mean and deviation of the tower's pixels."""
    return tuple(like.new_tensor(values).view(-1, 1, 1) for values in (backbone.image_mean, backbone.image_std))  # type: ignore[return-value]


def _slopes(logits_of: Logits, images: Tensor, labels: Tensor) -> Tensor | None:
    """(n,) largest entry of each image's gradient; None where logits have none."""
    with torch.enable_grad():
        if not logits_of(images[:1].requires_grad_()).requires_grad:
            return None
    _, gradient = ascent(lambda at: log_odds_against(logits_of(at), labels), images.detach())
    return gradient.flatten(1).abs().amax(dim=1)


def _right(logits_of: Logits, images: Tensor, labels: Tensor, attack: str, seed: int) -> Tensor:
    """(1 + R, n) which images are right, as they are and after the attack of each radius too, on the CPU."""
    own = labels.to(images.device)
    with torch.no_grad():
        clean = logits_of(images).argmax(dim=1) == own
    right, rows, offsets = clean, [clean.cpu()], drawn_offsets(images, seed)
    for radius in RADII:  # what fools within a small ball does within a larger one
        left = right.nonzero().squeeze(1)
        if len(left):
            fooled = _fooled(logits_of, images[left], own[left], offsets[left], radius / LEVELS, attack)
            right = right.index_fill(0, left[fooled], False)
        rows.append(right.cpu())
    return torch.stack(rows)


def _fooled(logits_of: Logits, images: Tensor, labels: Tensor, offsets: Tensor, eps: float, attack: str) -> Tensor:
    if attack == "apgd":
        return fooled_by_apgd(logits_of, images, labels, eps=eps, start=offsets)
    how = {"eps": eps, "step": STEP / LEVELS, "steps": STEPS, "start": eps * offsets}
    attacked = pgd(lambda at: log_odds_against(logits_of(at), labels), images, **how)
    with torch.no_grad():
        return logits_of(attacked).argmax(dim=1) != labels
