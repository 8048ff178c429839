"""REAL: class names replaced by their most frequent synonyms; a linear head trained on few found images per class.

Take it without labels of your own, where images of the classes can be found by their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, TextPool, has, option
from ...core.errors import DataError
from ...core.training import LearningRates, epoch_batches, label_loss, train_epochs
from ..support_folder import support_folder_images
from ._class_texts import ClassTexts, checked_synonyms, classifier_texts, spoken_of, texts_of_synonyms

ASSUMED_IMAGES = 100  # a class, in the published number of iterations
PASSES, LONGEST = 10, 32_000
PUBLISHED_BATCH = 32
TAIL = 0.2  # share of classes, the rarest, that are reported apart


@dataclass(eq=False, kw_only=True)
class RealLinear(Adapter):
    """The Neglected Tails in Vision-Language Models (Parashar, Lin, Liu, Dong, Li, Ramanan, Caverlee and Kong, 2024,
    arXiv 2401.12425): REAL-Prompt and REAL-Linear.

    REAL-Prompt: where synonyms and a text tower are given, the zero-shot weights W come from each class's most frequent
    synonym in the templates. REAL-Linear: a head without bias starts at W and learns, with logits s x W^T and
    cross-entropy, from batches of 32 images and 32 prompts together; AdamW, a linear warm-up from 1e-5, a cosine. The
    head that predicts is half the trained one and half W.

    The images come from the support folder: per class the 100 whose captions are most like its texts (mean of the
    cosines to the classifiers of all its synonyms), none with a mean below 0. Without captions of the images, the
    images' own features are ranked. Without a folder the shots are the images, all of them.

    Where it differs from the released code: the number of iterations is the published min(32000, 100 C 10 / 32) even
    where classes do not have 100 images; the logit scale is the model's, which for CLIP is the published 100; fewer
    images or prompts than a batch are taken whole, where the released code finds no batch. Nothing is chosen on val;
    with synonyms, accuracy on the rarest fifth of the classes is noted, as the paper reports it.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Resources:
        support_folder: `FeatureSet` of labelled images, optional.
        support_captions: `TextPool`, one caption for each of them, optional. synonyms: C tuples of (name, count),
        optional; needs a backbone with a text tower. templates: texts with `{}` for the synonyms; "a photo of a {}."
        where there are none.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: synonyms without a backbone.
        DataError: folder, captions or synonyms do not fit the classes, or no image is like its class.

    Example:
        >>> adapter = build_adapter("real-linear", iterations=20)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: checked against the published procedure as an explicit loop, and in its limits"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    optional: ClassVar[frozenset[str]] = frozenset({"support_folder", "synonyms", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("weights", "logit_scale", "logit_bias")

    weighting = has(ClassWeighting)
    per_class: int | None = option(
        100, "images taken per class of the folder; none: all with a similarity of 0 or more", low=1, high=1_000_000
    )
    use_shots: bool = option(False, "learn from the shots as well as the folder's images")
    iterations: int | None = option(None, "steps; none: the published number", low=1, high=10_000_000)
    batch_size: int = option(PUBLISHED_BATCH, "images, and as many prompts, per step", low=1, high=1_048_576)
    lr: float = option(1e-4, "peak learning rate of AdamW", above=0)
    weight_decay: float = option(0.01, "weight decay of AdamW", low=0)
    warmup: int = option(50, "steps of the warm-up, before the cosine", low=0, high=10_000_000)
    trained_share: float = option(
        0.5, "share of the trained head, the rest being its start; 0 is REAL-Prompt", low=0, high=1
    )

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias
        synonyms = checked_synonyms(resources.get("synonyms"), classifier, backbone)
        if synonyms is None:
            texts = classifier_texts(classifier)
        else:
            texts = texts_of_synonyms(synonyms, backbone, resources.get("templates"), support.features.device)
        images, labels, notes = self._images(support, classifier, resources, texts)
        iterations = self.iterations or min(LONGEST, ASSUMED_IMAGES * len(classifier) * PASSES // PUBLISHED_BATCH)
        head, history = self._train(texts, images, labels, iterations, seed)
        self.weights = self.trained_share * head + (1 - self.trained_share) * texts.zero_shot  # (C, D)
        if synonyms is not None:
            notes += [spoken_of(synonyms), *self._tail_note(synonyms, val)]
        chosen = {"iterations": iterations, "images": len(images), "prompts": len(texts.prompts)}
        words = "published settings" if self.iterations is None else "given as options"
        return FitReport(self.name, chosen, words, history=history, notes=notes, trained_parameters=head.numel())

    def _images(
        self, support: FeatureSet, classifier, resources, texts: ClassTexts
    ) -> tuple[Tensor, Tensor, list[str]]:
        """(M, D) unit features and (M,) labels to learn from, and what they are in words."""
        folder = support_folder_images(resources, support, classifier)
        if folder is None:
            note = f"the {len(support)} shots take the place of retrieved images; no support folder was given"
            return support.unit, support.labels, [note]
        words, by = _words_of(folder, resources.get("support_captions"))
        similarity = (words * texts.ranking[folder.labels]).sum(dim=-1)  # (N,)
        kept = folder.select(most_alike(similarity, folder.labels, self.per_class))
        if not len(kept):
            raise DataError(f"support folder: by {by}, no image resembles its class; check that each folder is a class")
        notes = [f"{len(kept)} of {len(folder)} images of the support folder, ranked by {by}"]
        if not self.use_shots:
            return kept.unit, kept.labels, notes
        notes.append(f"and the {len(support)} shots")
        return torch.cat([kept.unit, support.unit]), torch.cat([kept.labels, support.labels]), notes

    def _train(self, texts: ClassTexts, images, labels, iterations: int, seed: int) -> tuple[Tensor, list[dict]]:
        """The (C, D) head after the last step, and the history in ten parts."""
        head = texts.zero_shot.clone().requires_grad_()
        optimizer = torch.optim.AdamW([head], lr=self.lr, weight_decay=self.weight_decay)
        of_images = endless_batches(len(images), self.batch_size, 2 * seed, head.device)
        of_prompts = endless_batches(len(texts.prompts), self.batch_size, 2 * seed + 1, head.device)
        criterion = label_loss(False, self.weighting.priors_of(labels, len(texts.zero_shot)))

        def loss_of(part: int, batch: tuple[Tensor, Tensor]) -> Tensor:
            image, prompt = batch
            features = torch.cat([images[image], texts.prompts[prompt]])  # (2B, D)
            targets = torch.cat([labels[image], texts.classes[prompt]])
            return criterion(self.logit_scale * features @ head.T, targets)

        ends = sorted({iterations * part // PASSES for part in range(PASSES + 1)})
        rates = self._rates(iterations)
        rates = [rates[start:end] for start, end in pairwise(ends)]
        parts = train_epochs(optimizer, rates, lambda part: zip(of_images, of_prompts), loss_of)
        history = [{**part.row(first=0), "lr": part.rates[-1]} for part in parts]
        return head.detach(), history

    def _rates(self, iterations: int) -> list[float]:
        """The rate of each step. The warm-up of a peak of 5e-5 or less starts lower, as published."""
        kind = "linear" if self.warmup else None
        start = 1e-5 if self.lr > 5e-5 else 5e-6
        return LearningRates.dassl(self.lr, iterations, warmup=kind, warmup_epochs=self.warmup, warmup_lr=start)

    def _tail_note(self, synonyms, val: FeatureSet | None) -> list[str]:
        """Accuracy on val of the rarest fifth of the classes, and of the others."""
        if val is None or val.labels is None or not len(val):
            return []
        often = torch.tensor([sum(count for _, count in names) for names in synonyms])
        rare = torch.zeros(len(often), dtype=torch.bool)
        rare[often.argsort(stable=True)[: max(1, round(TAIL * len(often)))]] = True
        right = (self._scores(val.unit).argmax(dim=-1) == val.labels).double().cpu()
        of_rare = rare[val.labels.cpu()]
        if of_rare.all() or not of_rare.any():
            return []
        return [
            f"accuracy on val: {100 * float(right[of_rare].mean()):.1f} of the {int(rare.sum())} rarest classes, "
            f"{100 * float(right[~of_rare].mean()):.1f} of the others"
        ]

    def _scores(self, unit: Tensor) -> Tensor:
        return self.logit_scale * unit @ self.weights.T + (self.logit_bias or 0.0)

    def _logits(self, batch: Batch) -> Tensor:
        return self._scores(batch.unit)


def most_alike(similarity: Tensor, labels: Tensor, per_class: int | None) -> Tensor:
    """Rows to keep of images found for class names, class by class and the most alike first; of equal ones the earlier.

    Args:
        similarity: (N,) cosine of each image's words and its class's texts; rows below 0 are left out.
        labels: (N,) class indices.
        per_class: how many per class at most; None for all.

    Returns:
        (M,) int64.
    """
    order = similarity.argsort(descending=True, stable=True)
    order = order[similarity[order] >= 0]
    order = order[labels[order].argsort(stable=True)]  # class by class
    classes, counts = labels[order].unique_consecutive(return_counts=True)
    if per_class is None or not len(classes):
        return order
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return order[torch.arange(len(order), device=order.device) - starts < per_class]


def _words_of(folder: FeatureSet, captions: TextPool | None) -> tuple[Tensor, str]:
    """(N, D) unit features that images are ranked by, and what they are."""
    if captions is None:
        return folder.unit, "their own features, for want of captions"
    if len(captions) != len(folder) or captions.features.shape[1] != folder.dim:
        raise DataError(
            f"support captions: {len(captions)} of width {captions.features.shape[1]} for {len(folder)} images "
            f"of width {folder.dim}; give one caption per image"
        )
    features = captions.features.to(folder.features.device).float()
    return torch.nn.functional.normalize(features, dim=-1), "their captions"


def endless_batches(size: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of shuffled passes over `size` samples, an incomplete last one of a pass left out."""
    batches = epoch_batches(size, batch_size, seed, drop_last=True, device=device)
    return chain.from_iterable(map(batches, count()))
