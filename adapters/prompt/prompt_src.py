"""PromptSRC: learned tokens in both towers that are kept near the outputs of the frozen towers.

Take it where classes are to be added later, with a GPU: it stays near what the towers know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Backbone, FitReport, TrainingImages, has, option, require
from ...core.prompts import build_classifier, check_templates
from ...core.training import TrainingTask
from ._inside_towers import TEXT_BLOCKS, TextTokens, TokenAdapter, random_tokens

REGULATION = "self-regulation"
PUBLISHED_EPOCHS = 20
PUBLISHED_GAUSSIAN = (15, 1)
PUBLISHED_TEMPLATES = 60
TEACHERS = ("published", "own")


def _teacher(value: Any) -> Any:
    """A name of templates, or templates as a list."""
    return value if value in TEACHERS else check_templates(value)


@dataclass(eq=False, kw_only=True)
class PromptSrc(TokenAdapter):
    """Self-regulating prompts.

    Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting, 2023, arXiv 2307.06948.

    Each tower has its own tokens: n after the patches, n between the start and the words of every text, replaced before
    block i for 0 < i < depth. They are trained by cross-entropy + `text_weight` * mean |class features - frozen ones| +
    `image_weight` * mean |image features - frozen ones| + `scores_weight` * KL(frozen scores || scores), see the loss
    `self-regulation`. The frozen class features are means over many templates, the frozen image features those of the
    same augmented image. The tokens at the ends of the epochs are averaged, epoch e of E with the weight that a normal
    density gives it (`gpa`); the average is kept.

    Where it differs from the released code: float32 unless `amp` says otherwise (published: fp16), any widths and
    depths of towers (with fewer blocks all of them have tokens), the domain's augmentation where it has one, and the
    Gaussian of the average scales with the number of epochs unless it is given. As published, a class's text begins
    with "a photo of a" whatever the data, with the tokens in place of these words, and the mean over templates is of
    features with their norms.

    `teacher_templates` says what the frozen class features are made of: "published", the first 60 of CLIP's 80
    templates for ImageNet; "own", the domain's prompts; or templates with {} for the class name. Without `gpa_mean` and
    `gpa_std` the density is 15 and 1 of 20 epochs, in proportion. Also published: 6 and 10 of 20 for transfer between
    data sets; for few shots, of 50 epochs, 30 and 30 or 45 and 5. The weights of the three terms have no effect where
    `loss` omits these terms.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Raises:
        ConfigError: the tokens end inside a word of `ctx_init`, or leave no place for words.
        CapabilityError: a tower has no transformer blocks, or an image has several labels.

    Example:
        >>> adapter = build_adapter("prompt-src", epochs=1, teacher_templates="own")
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    packages: ClassVar[Mapping[str, str]] = {"open_clip": "open-clip"}  # has the published templates
    differs: ClassVar[str] = (
        "as vpt; the Gaussian that averages the epochs scales with their number unless it is given. The comparison "
        "uses the fixture's learning rates, tokens and teacher's texts"
    )
    default_loss: ClassVar[str] = f"cross-entropy,{REGULATION}"
    default_epochs: ClassVar[int] = PUBLISHED_EPOCHS
    multilabel: ClassVar[bool] = False
    backbone_needs: ClassVar[frozenset[str]] = TEXT_BLOCKS
    fixed: ClassVar = {"prompts_a_class": None}

    words = has(TextTokens)
    n_text: int = option(4, "tokens of the text tower", low=1, high=1024)
    n_image: int = option(4, "tokens of the image tower", low=1, high=1024)
    text_depth: int = option(9, "blocks of the text tower with their own tokens", low=1, high=1000)
    image_depth: int = option(9, "blocks of the image tower with their own tokens", low=1, high=1000)
    lr: float = 2.5e-3
    text_weight: float = option(25.0, "weight of the distance to the frozen class features", low=0)
    image_weight: float = option(10.0, "weight of the distance to the frozen image features", low=0)
    scores_weight: float = option(1.0, "weight of the divergence from the frozen scores", low=0)
    teacher_templates: Literal["published", "own"] | tuple[str, ...] = option(
        "published", "what the frozen class features are made of; own: the domain's prompts", parse=_teacher
    )
    gpa: bool = option(True, "average the tokens of the epochs; no keeps the last ones")
    gpa_mean: float | None = option(None, "mean of the average's weights, in epochs; none: in proportion")
    gpa_std: float | None = option(None, "deviation of the average's weights, in epochs; none: in proportion", above=0)

    def __post_init__(self):
        super().__post_init__()
        if self.teacher_templates != "published":
            self.packages = {}
        some = self.text_weight + self.image_weight + self.scores_weight > 0
        require(some, "text_weight", self.text_weight, "for no term at all give loss=cross-entropy")
        for name in ("gpa_mean", "gpa_std", "ema"):
            alone = getattr(self, name) is None or self.gpa == (name != "ema")
            require(alone, name, getattr(self, name), "gpa=True has mean and std, gpa=False may have ema")

    def _class_texts(self, images: TrainingImages, backbone: Backbone) -> tuple[list[list[str]], list[str]]:
        return self.words.class_texts(self, backbone, self.n_text)

    def _tokens(self, backbone: Backbone) -> dict[str, Tensor]:
        image_depth = min(self.image_depth, len(backbone.blocks("image")))
        text_depth = min(self.text_depth, len(backbone.blocks("text")))
        image = random_tokens(image_depth, self.n_image, backbone.width("image"))
        return {"image": image, "text": self.words.start(backbone, text_depth, self.n_text)}

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        if not self.gpa:
            return super()._settings_of_method(epochs)
        given = (self.gpa_mean, self.gpa_std)
        gaussian = [
            published * epochs / PUBLISHED_EPOCHS if chosen is None else chosen
            for chosen, published in zip(given, PUBLISHED_GAUSSIAN)
        ]
        return {**super()._settings_of_method(epochs), "epoch_average": tuple(gaussian)}

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        if REGULATION not in task.losses:
            return task
        weights = {"text": self.text_weight, "image": self.image_weight, "scores": self.scores_weight}
        options = {**task.loss_options, REGULATION: {**weights, **task.loss_options.get(REGULATION, {})}}
        frozen = None if images is None else self._frozen_classes(base, images)
        return replace(task, loss_options=options, teacher_classes=frozen)

    def _frozen_classes(self, base: Backbone, images: TrainingImages) -> Tensor:
        """(C, D) unit rows: means over templates of the frozen text features, norms and all."""
        if self.teacher_templates == "own":
            texts = {str(number): prompts for number, prompts in enumerate(images.prompts)}
            made = build_classifier(base, list(texts), [], descriptions=texts)
        else:
            made = build_classifier(base, self.class_names_, _templates(self.teacher_templates))
        return F.normalize(made.unnormalized, dim=-1)

    def _report(self, done, settings, notes: list[str]) -> FitReport:
        report = super()._report(done, settings, notes)
        if settings.epoch_average is not None:
            report.chosen.update(zip(("gpa_mean", "gpa_std"), settings.epoch_average))
        return report


def _templates(chosen: str | Sequence[str]) -> list[str]:
    if chosen != "published":
        return list(chosen)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[:PUBLISHED_TEMPLATES]]
