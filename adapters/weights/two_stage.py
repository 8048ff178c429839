"""2SFS: trains a few parameters of both towers first, then only a classifier on the tuned towers.

Take it for images unlike what the towers know: its settings are the same for every set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import (
    Adapter,
    Backbone,
    ClassWeighting,
    FeatureSet,
    FitReport,
    RandomCrops,
    TrainingImages,
    TrainingPlace,
    has,
    option,
)
from ...core.errors import CapabilityError
from ...core.training import (
    CosineHead,
    GlobalBatches,
    LowRank,
    TowerAdapter,
    TrainingResult,
)
from ._norms import norms_of
from ._one_way import ONE_WAY
from .lora import attach_lora

TOWERS = ("image", "text")
TUNED = ("norms", "all-norms", "biases", "lora")
CLASSIFIER = "classifier"


@dataclass(eq=False, kw_only=True)
class TwoStage(TowerAdapter):
    """Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages (2SFS; Farina, Mancini, Iacca and Ricci,
    2025, arXiv 2503.11609).

    Of a budget of 300 steps per shot, the first 60 % train the LayerNorms of both towers by cross-entropy on scaled
    cosines, the first prompt of each class encoded anew in every step. In the other 40 % the tuned towers stay fixed,
    and only a classifier is trained, on augmented images: it starts as the unit text features of the tuned text tower,
    and its rows are normalised in every step. The logit scale is frozen. Each stage has its own AdamW at a rate of 2e-4
    with decay 0.01 on all that trains and its own cosine down to 1e-6; no warm-up, nothing chosen on val, the last
    weights are kept. All of this is the same for every set.

    Selective inference, by class name (`for_classes`): a class of the fit has its trained row, any other its text as
    the tuned text tower reads it.

    `tune` says what the first stage trains: "norms", the two norms of every block, as in the released code and the
    published numbers; "all-norms", those before and after the blocks too, which the released code names but freezes
    again by mistake (for ViT-B/16 65,536 parameters in place of 61,440); "biases" of all layers; "lora", as in
    CLIP-LoRA. What a tower does not have (a CNN has no blocks) stays as it is, and the report says so.

    Several labels per image: binary cross-entropy on the difference to the negative prompts, whose rows the classifier
    has too. Where classes have unequal numbers of images each counts alike in both stages (`class_weight`); published
    is "none". With equal classes nothing differs.

    Raises:
        CapabilityError: neither tower has what is to be tuned, or pairs in place of classes.

    Example:
        >>> adapter = build_adapter("two-stage", iterations=2, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32 unless `amp` says otherwise (released: fp16, and steps that overflow are not counted); the domain's "
        "prompts and augmentation, if it has any; towers other than vision transformers work as far as possible "
        "(released: refused). Base and new classes may be classified together (released: never)"
    )
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    end_lr: ClassVar[float] = 1e-6

    fixed: ClassVar = ONE_WAY
    crops = has(RandomCrops, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)

    # no options: the budget is in steps, and both stages go as published
    epochs: ClassVar[None] = None
    warmup: ClassVar[float] = 0.0
    layer_decay: ClassVar[float] = 1.0
    clip_grad: ClassVar[None] = None

    lr: float = 2e-4
    weight_decay: float = option(1e-2, "weight decay on all that trains", low=0)
    prompts_a_class: int | None = 1
    iterations: int = option(300, "steps per shot, of both stages together", low=1, high=10_000_000)
    first_share: float = option(0.6, "share of the steps that are the first stage's", above=0, below=1)
    tune: str = option("norms", "what the first stage trains; norms: those of the blocks", choices=TUNED)
    r: int = option(2, "rank of the matrices, where tune is lora", low=1, high=100_000)

    def __post_init__(self):
        super().__post_init__()
        self._steps = self._steps_an_epoch = None

    # the settings of a stage

    def _epochs(self, steps: int, shots: int) -> int:
        """As many as the steps of the stage take; a batch that is not full counts here."""
        return -(-self._steps // self._steps_an_epoch)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        stage = {"steps": self._steps, "drop_last": False, "decayed": "all"}
        return {**super()._settings_of_method(epochs), **stage}

    # the fit

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        total = self.iterations * support.shots
        first = min(max(1, math.floor(self.first_share * total)), max(1, total - 1))
        images, place = resources["images"], resources.get("place") or TrainingPlace(None)
        self._steps = first
        self._steps_an_epoch = len(GlobalBatches(len(images.items), self.batch_size, seed, drop_last=False))
        of_first = {**resources, "place": place.stage(1, total=total)}
        of_fit = {"val": val, "unlabeled": unlabeled, "backbone": backbone, "seed": seed}
        report = super()._fit(support, classifier, resources=of_first, **of_fit)
        self._steps = max(1, total - first)
        head = CosineHead(self.weights, self.negative, self.logit_scale, self.logit_bias)
        before = {"steps": first, "epochs": first / self._steps_an_epoch}
        second = place.stage(2, total=total, **before, inside=CLASSIFIER)
        done = self._train_classifier(head, support, images, second, seed)
        self.weights, self.negative = head.kept()
        return self._report_of_both(report, done, first, head)

    def _train_classifier(
        self, head: CosineHead, support: FeatureSet, images: TrainingImages, place: TrainingPlace, seed: int
    ) -> TrainingResult:
        """The second stage, of the classifier alone."""
        prompts, _ = self._class_texts(images, self._made)
        task = replace(
            self._task_of_labels(images, prompts, support.labels, self._made),
            class_scores=head.to(self._made.device),
            select=lambda towers: towers.model.requires_grad_(False),
            identity={"stage": 2, "backbone": self._made.fingerprint},
        )
        steps, epochs = self._steps_an_epoch, self._epochs(self._steps_an_epoch, support.shots)
        return self._train_in_place(self._made, task, place, epochs=epochs, steps=steps, seed=seed)[0]

    def _report_of_both(self, report: FitReport, done: TrainingResult, first: int, head: CosineHead) -> FitReport:
        trained = report.trained_parameters + sum(parameter.numel() for parameter in head.parameters())
        chosen = {"steps": first + done.steps, "first stage": first, "lr": self.lr, "trained parameters": trained}
        history = [{**row, "stage": 1} for row in report.history] + [{**row, "stage": 2} for row in done.history]
        notes = list(dict.fromkeys([*report.notes, *done.notes]))
        decided = {"chosen": chosen, "history": history, "notes": notes, "trained_parameters": trained}
        return replace(report, **decided)

    def settled(self, report: FitReport) -> dict[str, Any]:
        return Adapter.settled(self, report)

    # what the first stage trains

    def _choose(self, backbone: Backbone) -> list[str]:
        if self.tune == "lora":
            return self._attach(backbone, dropout=0.25)
        lacking = []
        for tower in TOWERS:
            parameters = tuned_parameters(backbone, tower, self.tune)
            for parameter in parameters:
                parameter.requires_grad_(True)
            if not parameters:
                lacking.append(tower)
        if len(lacking) == len(TOWERS):
            raise CapabilityError(
                f"backbone '{backbone.spec}' has no {self.tune} that adapter '{self.name}' could train; "
                "give towers with transformer blocks"
            )
        return [f"Backbone '{backbone.spec}': its {tower} tower has no {self.tune} to train" for tower in lacking]

    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        return LowRank(trained).merge() if self.tune == "lora" else super()._learned(trained, base)

    def _put(self, backbone: Backbone) -> None:
        if self.tune != "lora":
            return super()._put(backbone)
        self._attach(backbone, dropout=0.0)
        lora = LowRank(backbone)
        lora.load(self.changed)
        lora.merge()

    def _attach(self, backbone: Backbone, dropout: float) -> list[str]:
        return attach_lora(backbone, r=self.r, dropout=dropout)

    # selective inference

    def for_classes(self, backbone: Backbone, class_names: Sequence[str], classifier=None) -> TowerAdapter:
        """A fitted copy for classes named by the templates of the fit; those of the fit keep their trained rows.

        Raises:
            CapabilityError: not fitted, fitted without templates or on several labels, or another backbone.
        """
        other = super().for_classes(backbone, class_names, classifier)
        trained = dict(zip(reversed(self.class_names_), reversed(F.normalize(self.weights, dim=-1).to(other.weights))))
        other.weights = torch.stack([trained.get(name, row) for name, row in zip(class_names, other.weights)])
        return other

    def fit_pairs(self, source, backbone: Backbone, **options) -> FitReport:
        raise CapabilityError(f"adapter '{self.name}' learns a classifier, and pairs have no classes; use full or lora")


def tuned_parameters(backbone: Backbone, tower: str, tune: str) -> list[nn.Parameter]:
    """Of "image" or "text" the parameters of its norms or its biases; see `TwoStage`."""
    if tune == "norms":
        blocks = backbone.blocks(tower) if f"{tower}_blocks" in backbone.capabilities else []
        return [p for block in blocks for norm in (block.ln_1, block.ln_2) for p in norm.parameters()]
    model = backbone.model
    if tune == "biases":
        names = [name for name, _ in model.named_parameters() if name.endswith("bias")]
        return [model.get_parameter(name) for name in names if backbone.tower_of(name) == tower]
    return norms_of(backbone, tower)
