"""S3A: clusters of images find their names in a broad vocabulary, and the image tower is trained on these.

Take it without labels, with a GPU, where the true classes are among a long list of names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Backbone, Batch, FitReport, Loss, Output, RandomCrops, has, option, spoken
from ...core.errors import CapabilityError
from ...core.prompts import build_classifier, fill
from ...core.training import GlobalBatches, TowerLayers, image_features
from ._towers import SelfTrained, as_tested
from ._words import aligned_words, broad_vocabulary, realigned

RATE_OF = 256
"""Images of the batch that the published rates are for."""
END_LR = 1e-6
KEEP_FIRST, KEEP_LAST, RAMP = 0.999, 0.9998, 2000
"""Share of itself that the teacher keeps in the first step, after the last of the ramp, and the steps of the ramp."""


@dataclass(eq=False, kw_only=True)
class S3a(SelfTrained):
    """Towards Realistic Zero-Shot Classification via Self Structural Semantic Alignment (S3A; Zhang, Naseer, Chen,
    Shen, Khan, Zhang and Khan, 2023, arXiv 2308.12960).

    Unlabelled images are named by words of a broad vocabulary. K-means makes clusters of their features. Three times,
    the images of each cluster vote, each for its nearest word; every cluster is assigned a different word, with the
    most votes in total; and each image moves to the nearest of these words, which makes new clusters. Then the three
    words with the most votes of each cluster are compared by sentences about them: each image votes for the 3 nearest
    of all these sentences, a word's score is the mean number of votes for its own, and words are assigned by these
    scores once more.

    The whole image tower then learns over the whole vocabulary, from strongly augmented views: by the cross-entropy
    with the word that a teacher gives the image as it is tested, where its confidence exceeds 0.5, plus 0.25 times that
    with the word of its cluster. The teacher is a running mean of the tower with decay 0.999, 0.9998 after 2,000 steps.
    From the third epoch on, clusters vote, are assigned and moved anew before each epoch, by the features of the
    teacher. AdamW at 2e-5 for 256 images, less for fewer, each layer 0.65 times the one above it, decay 0.05, a cosine,
    batches of 64, 30 epochs. The prediction is the scaled cosine to the texts of the classes.

    The vocabulary is given by `--resource vocabulary=FILE` (a word per line), else it is ImageNet-21k's, from timm; the
    names of the classes are always part of it. The sentences are given by `--resource realign-prompts=FILE` (JSON,
    {word: [sentences]}); a word without any stands for itself. Without that file the step is left out, and the run says
    so.

    Without labels nothing is chosen. It assumes that there are about as many kinds of images as classes (`clusters`),
    each of which forms a cluster; it does not assume that these are the classes.

    Where it differs from the released code: float32; the class names are in the vocabulary, and prediction is among
    them (released: over all words, with labels to compare); sentences are read from a file (released: from a language
    model, repeated answers counting more); the words of teacher and clusters come from the image as it is tested
    (released: cropped at random along its longer side); torchvision's RandAugment (released: timm's); the last weights
    are kept (released: the epoch that is best on the test labels). How many clusters there are is not estimated.

    Resources:
        vocabulary, realign_prompts: as in `core/contracts/resources.py`.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: more clusters than words, no unlabelled images, or several labels per image.

    Example:
        >>> adapter = build_adapter("s3a", epochs=1, batch_size=4)
        >>> given = {**unlabelled, "vocabulary": ("red", "green", "a wall")}
        >>> report = adapter.fit(None, classifier, unlabeled=test, backbone=backbone, resources=given)
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the fixture covers the votes and assignments; the training is checked against an explicit loop. The class "
        "names are in the vocabulary, and predictions choose among them (released: among all words); sentences are "
        "read from a file; the last weights are kept (released: the epoch that is best on test labels); the number of "
        "clusters is given, not estimated"
    )
    optional: ClassVar[frozenset[str]] = frozenset({"vocabulary", "realign_prompts"})
    default_epochs: ClassVar[int] = 30
    clip_grad: ClassVar[None] = None

    crops = has(RandomCrops, published_crop=(0.3, 1.0), published_randaugment=True)
    batch_size: int = 64
    lr: float = option(2e-5, "peak learning rate for batches of 256 images; in proportion for others", above=0)
    weight_decay: float = 0.05
    layer_decay: float = option(0.65, "factor on the rate per layer below the top; 1 for none", above=0, high=1)
    clusters: int | None = option(None, "clusters of images; none: as many as classes", low=2, high=1_000_000)
    rounds: int = option(3, "rounds in which clusters vote, are assigned and moved", low=1, high=1000)
    candidates: int = option(3, "words of each cluster that are compared by sentences", low=1, high=1000)
    nearest: int = option(3, "nearest sentences that each image votes for", low=1, high=1000)
    confidence: float = option(0.5, "least confidence of the teacher in a word", low=0, below=1)
    structure: float = option(0.25, "weight of the clusters' words, the teacher's having 1", low=0)
    fixed_epochs: int = option(2, "first epochs, in which clusters do not vote anew", low=0, high=100_000)

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        share = self.batch_size / RATE_OF
        own = {"lr": self.lr * share, "end_lr": END_LR * share, "drop_last": True}
        return {**super()._settings_of_method(epochs), **own}

    def _choose(self, backbone: Backbone) -> list[str]:
        TowerLayers(backbone).set_trainable(lock=("text",))
        for name in ("logit_scale", "logit_bias"):
            if isinstance(parameter := getattr(backbone.model, name, None), torch.nn.Parameter):
                parameter.requires_grad_(False)
        return []

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        images = resources["unlabeled_images"]
        words = _with_classes(resources.get("vocabulary") or broad_vocabulary(), self.class_names_)
        text = build_classifier(backbone, words, images.templates).weights.to(unlabeled.unit)
        clusters = self._clustered(unlabeled.unit, len(classifier), len(words), seed)
        labels, voted, votes = aligned_words(unlabeled.unit, text, clusters, self.rounds)
        said = resources.get("realign_prompts")
        if said is not None:
            sentences = _Sentences(backbone, words, said, images.templates)
            labels = realigned(unlabeled.unit, text, voted, votes, sentences, self.candidates, self.nearest)
        how = {"rounds": self.rounds, "confidence": self.confidence, "structure": self.structure}
        epochs = self.epochs or self.default_epochs
        steps = epochs * len(GlobalBatches(len(unlabeled), self.batch_size, seed))
        loss = Structural(text, labels, float(backbone.logit_scale), self.fixed_epochs, steps, **how)
        report = self._self_train(
            loss,
            images,
            backbone,
            epochs=epochs,
            place=resources.get("place"),
            seed=seed,
            view=as_tested(images),
            strong_view=self._view(images.train_transform, backbone),
            identity={"words": list(words), "labels": labels.tolist()},
        )
        self.weights = classifier.weights
        found = [words[word] for word in loss.labels.unique().tolist()]
        of_classes = len({name.casefold() for name in found} & {spoken(name).casefold() for name in self.class_names_})
        shown = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        report.notes.append(f"{len(found)} words found among {len(words)}, {of_classes} of them classes: {shown}")
        if said is None:
            report.notes.append("no --resource realign-prompts: clusters keep the words that they voted for")
        return report

    def _clustered(self, features: Tensor, classes: int, words: int, seed: int) -> Tensor:
        """(N,) clusters; there are no more of them than images.

        Raises:
            CapabilityError: more clusters than words.
        """
        from sklearn.cluster import KMeans

        count = min(self.clusters or classes, len(features.unique(dim=0)))
        if count > words:
            raise CapabilityError(f"{count} clusters for {words} words; give a larger vocabulary, or fewer clusters")
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(features.cpu().numpy())
        return torch.from_numpy(found).long().to(features.device)

    def _logits(self, batch: Batch) -> Tensor:
        return self._rows(batch, self.weights)


def _with_classes(vocabulary: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Words, and what of the classes is not among them, whatever their case."""
    known = {word.casefold() for word in vocabulary}
    classes = dict.fromkeys(spoken(name) for name in class_names)
    return (*vocabulary, *(name for name in classes if name.casefold() not in known))


class _Sentences:
    """Words -> the unit features of their sentences, of one without any of its prompts."""

    def __init__(self, backbone: Backbone, words: Sequence[str], said: Mapping, templates: Sequence[str]):
        self.backbone, self.words, self.templates = backbone, words, templates
        self.said = {word.casefold(): sentences for word, sentences in said.items()}

    def __call__(self, numbers: Sequence[int]) -> list[Tensor]:
        texts = [self.said.get(self.words[n].casefold()) or fill(self.templates, self.words[n]) for n in numbers]
        with torch.no_grad():
            encoded = self.backbone.encode_text([sentence for some in texts for sentence in some])
        return list(encoded.split([len(some) for some in texts]))


class Structural(Loss):
    """The loss above.

    Args:
        text: (V, D) unit rows of the words.
        labels: (N,) the word of each image's cluster, to begin with.
        scale: what cosines are multiplied by.
        steps: of the whole training.
        fixed_epochs, rounds, confidence, structure: options of `s3a`.
    """

    teacher: ClassVar[str] = "ema"
    needs: ClassVar = frozenset({"strong", "teacher.image", "index"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "strong": Output("features of a strongly augmented view", fields=("pixels_strong1",))
    }

    def __init__(
        self,
        text: Tensor,
        labels: Tensor,
        scale: float,
        fixed_epochs: int,
        steps: int,
        *,
        rounds: int,
        confidence: float,
        structure: float,
    ):
        super().__init__()
        self.scale, self.fixed_epochs, self.steps, self.rounds = scale, fixed_epochs, steps, rounds
        self.confidence, self.structure = confidence, structure
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("first", labels.clone())
        self.register_buffer("labels", labels.clone())
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))  # epochs

    def further_outputs(self, batch, backbone) -> dict[str, Tensor]:
        if "pixels_strong1" not in batch:
            return {}
        return {"strong": image_features(backbone, batch["pixels_strong1"])}

    def teacher_momentum(self, progress: float) -> float:
        return KEEP_FIRST + (KEEP_LAST - KEEP_FIRST) * min(1.0, progress * self.steps / RAMP)

    def before_epoch(self, extract) -> None:
        """The words of the clusters, by the features of the teacher."""
        if int(self.begun) >= self.fixed_epochs:
            features = extract(["teacher.image"])["teacher.image"].to(self.text)
            self.labels.copy_(aligned_words(features, self.text, self.first, self.rounds)[0])
        self.begun += 1

    def compute(self, out, progress: float) -> dict[str, Tensor]:
        sure, words = (self.scale * out["teacher.image"] @ self.text.T).softmax(dim=1).max(dim=1)  # (B,)
        kept = (sure > self.confidence).float()
        logits = self.scale * out["strong"] @ self.text.T  # (B, V)
        taught = (F.cross_entropy(logits, words, reduction="none") * kept).sum() / kept.sum().clamp_min(1)
        structural = F.cross_entropy(logits, self.labels[out["index"]])
        parts = {"teacher": taught, "structure": structural, "sure": kept.mean()}
        return {"loss": taught + self.structure * structural, **parts}
