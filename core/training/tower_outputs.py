"""From a batch to the named outputs that losses ask for, each tower run once per view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.loss import Loss
from ..contracts.outputs import Output
from ..errors import CapabilityError, DataError
from ..runtime.distributed import all_gather_rows, rank, world_size
from .batches import GlobalBatches
from .class_scores import ClassScores, PixelScores
from .fields import SENTENCE, field_of_column
from .samples import Samples, collate, length_field
from .teachers import OF_CAPTIONS, side_by_side, teacher_images, teacher_sentences, teacher_texts
from .tower_passes import MaskedWords, image_features, image_outputs, seen_by
from .uncertainty import Uncertainty
from .views import normalised

CAPABILITY = {
    "image_hidden": "hidden",
    "image_tokens": "image_tokens",
    "text_tokens": "text_blocks",
    "masked_tokens": "text_blocks",
    "hidden_view1": "hidden",
    "hidden_view2": "hidden",
    "hidden_local": "hidden",
    "teacher.image_hidden": "hidden",
    "teacher.masked_tokens": "text_blocks",
    "image_log_variance": "image_blocks",
    "image_masked": "image_blocks",
    "image_masked_log_variance": "image_blocks",
    "text_log_variance": "text_blocks",
    "text_masked": "text_blocks",
    "text_masked_log_variance": "text_blocks",
}
"""What a backbone must have for an output; all others any backbone gives."""

OF_TEACHER = "teacher."

VARIANCES = frozenset(
    {
        "image_log_variance",
        "text_log_variance",
        "image_masked",
        "image_masked_log_variance",
        "text_masked",
        "text_masked_log_variance",
    }
)


class Outputs(nn.Module):
    """What the towers of a backbone give for a batch. Owns what an output needs beyond the towers.

    Args:
        backbone: the towers; not a submodule of this.
        wanted: names of outputs.
        teachers: the towers that `teacher.*` come from; features of several stand side by side.
        text_prompt: changes word embeddings before the text tower: (embeddings, mask, batch) -> (embeddings, mask).
        class_scores: where "logits" or "class_features" is wanted; for "logits" alone any module that makes them of
            unit image features, or of the pixels themselves (`PixelScores`).
        teacher_classes: (C, D) unit rows, where "teacher.class_features" is wanted.
        class_priors: (C,) log shares of the classes, or None.
        losses: those that bring outputs of their own.

    Raises:
        CapabilityError: the backbone has no such output.
    """

    def __init__(
        self,
        backbone: Backbone,
        wanted: Iterable[str],
        teachers: Sequence[Backbone] = (),
        text_prompt: Callable | None = None,
        class_scores: ClassScores | nn.Module | None = None,
        teacher_classes: Tensor | None = None,
        class_priors: Tensor | None = None,
        losses: Sequence[Loss] = (),
    ):
        super().__init__()
        self.wanted = frozenset(wanted)
        for name in sorted(self.wanted & set(CAPABILITY)):
            backbone.need(CAPABILITY[name])
        if self.wanted & VARIANCES and getattr(backbone, "prompts", None) is not None:
            raise CapabilityError("a loss needs log variances, which towers with learned tokens do not give; use clip")
        self._held = [backbone, *teachers]  # in a list: no submodules, whose parameters would be listed twice
        self.losses = list(losses)
        self.text_prompt = text_prompt
        self.class_scores = class_scores
        self.register_buffer("teacher_classes", teacher_classes, persistent=False)
        self.register_buffer("class_priors", class_priors, persistent=False)
        for name, values in (("pixel_mean", backbone.image_mean), ("pixel_std", backbone.image_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.uncertainty = Uncertainty(backbone) if self.wanted & VARIANCES else None
        masked = self.wanted & {"masked_tokens", "teacher.masked_tokens"}
        self.masked_words = MaskedWords(backbone) if masked else None

    @property
    def backbone(self) -> Backbone:
        return self._held[0]

    @property
    def teachers(self) -> list[Backbone]:
        return self._held[1:]

    def classes(self) -> Tensor | None:
        """Text features of the classes, as `ClassScores.weights`, where both parts of the outputs need them."""
        return self.class_scores.weights() if "class_features" in self.wanted else None

    def per_sample(self, batch: Mapping[str, Any], classes: Tensor | None = None) -> dict[str, Tensor]:
        """Outputs with one row per sample.

        Args:
            classes: what `classes()` gives, where that is known already.
        """
        batch, out = self.normalised(batch), {}
        out.update(self._of_image(batch))
        out.update(self._of_text(batch))
        out.update(self._of_further_views(batch))
        out.update(self._of_further_texts(batch))
        out.update(self._of_teacher(batch))
        if self.uncertainty is not None:
            out.update(self.uncertainty(batch["pixels"], batch["tokens"], batch.get("draws"), self.wanted))
        if self.masked_words is not None:
            out.update(self.masked_words(batch["tokens"], batch["draws"]))
        if "logits" in self.wanted:
            out["logits"] = self._logits(out, batch, classes)
        for name in ("labels", "index", "image_ids"):
            if name in self.wanted:
                out[name] = batch[name]
        if classes is not None:
            batch["class_features"] = classes[: self.class_scores.num_classes]
        for loss in self.losses:
            out.update(self._brought_by(loss, batch))
        return out

    def normalised(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its pixels as the towers take them; those of 8 bits came to the device as they are."""
        pixels = {name: value for name, value in batch.items() if name.startswith("pixels")}
        return {**batch, **{name: normalised(value, self.pixel_mean, self.pixel_std) for name, value in pixels.items()}}

    def _logits(self, out: Mapping[str, Tensor], batch: Mapping[str, Any], classes: Tensor | None) -> Tensor:
        scores = self.class_scores
        if isinstance(scores, PixelScores):
            return scores(self.backbone, batch["pixels"])
        return scores(out["image_features"]) if classes is None else scores(out["image_features"], classes)

    def compile_per_sample(self, **options: Any) -> None:
        """Compile the towers' passes by torch.compile. How long texts are the host tells first, as a number: reading an
        array would break the graph."""
        compiled = torch.compile(self.per_sample, **options)
        self.per_sample = lambda batch, classes=None: compiled(_with_longest(batch), classes)

    def shared(self, classes: Tensor | None = None) -> dict[str, Tensor]:
        """Outputs that are the same for all samples; `classes` as in `per_sample`."""
        backbone, teachers = self.backbone, self.teachers
        out = {"logit_scale": backbone.logit_scale}
        if backbone.logit_bias is not None:
            out["logit_bias"] = backbone.logit_bias
        if teachers:
            out["teacher.logit_scale"] = torch.stack([each.logit_scale.detach() for each in teachers]).mean()
        if "class_features" in self.wanted:
            classes = self.class_scores.weights() if classes is None else classes
            out["class_features"] = classes[: self.class_scores.num_classes]
        if "teacher.class_features" in self.wanted:
            out["teacher.class_features"] = self.teacher_classes
        if self.class_priors is not None:
            out["class_priors"] = self.class_priors
        return out

    def _of_image(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        names = self.wanted & {"image_features", "image_embedding", "image_hidden", "image_tokens"}
        if "logits" in self.wanted and not isinstance(self.class_scores, PixelScores):
            names = names | {"image_features"}
        if SENTENCE in batch:  # a batch of pairs of texts
            return {"image_features": self._encoded(batch[SENTENCE], None)}
        return image_outputs(self.backbone, batch["pixels"], names) if names else {}

    def _of_text(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        if "text_mask" in self.wanted:
            out["text_mask"] = self.backbone.token_mask(batch["tokens"])
        if "text_tokens" in self.wanted:
            out["text_tokens"] = self.backbone.text_tokens(batch["tokens"])
        if "text_embedding" in self.wanted:
            out["text_embedding"] = self._pooled(out, batch, normalize=False)
        if "text_features" in self.wanted:
            raw = out.get("text_embedding")
            out["text_features"] = self._pooled(out, batch) if raw is None else F.normalize(raw, dim=-1)
        return out

    def _pooled(self, out: Mapping[str, Tensor], batch: Mapping[str, Any], normalize: bool = True) -> Tensor:
        """Of whole texts; of the pass that gave "text_tokens", where there was one that saw what they see."""
        backbone = self.backbone
        changed = self.text_prompt is not None or getattr(backbone, "text_prefix", None) is not None
        if "text_tokens" not in out or changed or "trim" not in backbone.capabilities:
            return self._text("tokens", batch, normalize)
        mask = out["text_mask"] if "text_mask" in out else backbone.token_mask(batch["tokens"])
        return backbone.pool_text(out["text_tokens"], mask, normalize)

    def _of_further_views(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        backbone, out = self.backbone, {}
        for name, field in (("image_view2", "pixels_view2"), ("image_negative", "pixels_negative")):
            if name in self.wanted:
                out[name] = image_features(backbone, batch[field])
        for name, field in (("hidden_view1", "pixels_strong1"), ("hidden_view2", "pixels_strong2")):
            if name in self.wanted:
                out[name] = backbone.hidden(batch[field])
        if "hidden_local" in self.wanted:
            crops = batch["pixels_local"]  # (B, V, 3, s, s)
            out["hidden_local"] = backbone.hidden(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        return out

    def _of_further_texts(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        pairs = {
            "text_view2": "tokens_view2",
            "text_short": "tokens_short",
            "text_synthetic": "tokens_synthetic",
            "text_negative": "tokens_negative",
        }
        out = {name: self._text(field, batch) for name, field in pairs.items() if name in self.wanted}
        if "text_positives" in self.wanted:
            tokens = batch["tokens_positives"]  # (B, N, L)
            lengths = batch.get(length_field("tokens_positives"))
            lengths = lengths.reshape(-1) if isinstance(lengths, np.ndarray) else lengths
            out["text_positives"] = self._encoded(tokens.flatten(0, 1), lengths).unflatten(0, tokens.shape[:2])
        return out

    def _brought_by(self, loss: Loss, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Outputs that a loss brings: of columns of the data, or made by itself."""
        asked = {name: output for name, output in loss.outputs.items() if name in self.wanted}
        out = {name: self._of_column(output, batch) for name, output in asked.items() if output.column}
        further = asked.keys() - out.keys()
        made: dict[str, Tensor] = {}
        if any(not name.startswith(OF_TEACHER) for name in further):
            made |= loss.further_outputs(batch, self.backbone)
        if any(name.startswith(OF_TEACHER) for name in further):
            teacher, seen = self.teachers[0], dict(batch)
            if "pixels" in batch:
                seen["pixels"] = seen_by(teacher, self.backbone, batch["pixels"])
            with torch.no_grad():
                made |= loss.teacher_outputs(seen, teacher)
        return {**out, **{name: made[name] for name in further & made.keys()}}

    def _of_column(self, output: Output, batch: Mapping[str, Any]) -> Tensor:
        field = field_of_column(output)
        values = batch[field]
        if output.tower == "text":
            return self._text(field, batch)
        return image_features(self.backbone, values) if output.tower == "image" else numbers_as(output, values)

    def _of_teacher(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        teachers, out = self.teachers, {}
        if not teachers:
            return out
        with torch.no_grad():
            if "teacher.image" in self.wanted:
                out["teacher.image"] = teacher_images(teachers, self.backbone, batch)
            if "teacher.image_hidden" in self.wanted:
                seen = [each.hidden(seen_by(each, self.backbone, batch["pixels"])) for each in teachers]
                out["teacher.image_hidden"] = side_by_side(seen)
            for name in OF_CAPTIONS.keys() & self.wanted:
                out[name] = teacher_texts(teachers, batch, OF_CAPTIONS[name])
            if "teacher.sentence" in self.wanted:
                out["teacher.sentence"] = teacher_sentences(teachers, batch)
            if "teacher.masked_tokens" in self.wanted:
                assert self.masked_words is not None
                seen = self.masked_words(batch["tokens"], batch["draws"], teachers[0])
                out["teacher.masked_tokens"] = seen["masked_tokens"]
        return out

    def _text(self, field: str, batch: Mapping[str, Any], normalize: bool = True) -> Tensor:
        backbone, tokens = self.backbone, batch[field]
        if self.text_prompt is None:
            return self._encoded(tokens, batch.get(length_field(field)), normalize)
        mask = backbone.token_mask(tokens)
        embeddings, mask = self.text_prompt(backbone.embed_tokens(tokens), mask, batch)
        return backbone.encode_prompt(embeddings, mask, normalize)

    def _encoded(self, tokens: Tensor, lengths: np.ndarray | int | None, normalize: bool = True) -> Tensor:
        if lengths is None:
            return self.backbone.encode_text(tokens, normalize)
        return self.backbone.encode_measured(tokens, lengths, normalize)


def _with_longest(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with the longest length, a number, in the place of all lengths."""
    return {name: int(v.max(initial=1)) if isinstance(v, np.ndarray) else v for name, v in batch.items()}


def numbers_as(output: Output, numbers: Tensor) -> Tensor:
    """Numbers of a column (B, n) as an output declares them: float32, classes int64 with -1 for NaN, masks bool; (B,)
    where it has no second axis.

    Raises:
        DataError: rows have several numbers where the output has one.
    """
    if len(output.shape) == 1:
        if numbers.shape[1] != 1:
            raise DataError(f"column '{output.column}' has {numbers.shape[1]} numbers per row; give one")
        numbers = numbers[:, 0]
    if output.kind in ("class", "row", "token"):
        return numbers.nan_to_num(nan=-1).long()
    return numbers.nan_to_num().bool() if output.kind == "mask" else numbers.float()


@torch.no_grad()
def extract_outputs(model, samples: Samples, batches: GlobalBatches, names: list[str]) -> dict[str, Tensor]:
    """Name -> (N, ...) on the CPU, in the order of the set, the same on all ranks. Towers are in eval mode meanwhile.

    Args:
        model: a PairModel.
        samples: the training set.
        batches: its epoch is that of the views.
        names: outputs of two axes.
    """
    training = model.training
    model.eval()
    made_by = {"teachers": model.outputs.teachers, "losses": model.outputs.losses}
    outputs = Outputs(model.backbone, names, **made_by).to(model.backbone.device)
    mine = torch.arange(len(samples)).tensor_split(world_size())[rank()].tolist()
    size = model.settings.micro_batch_size or batches.batch_size
    rows_of: dict[str, list[Tensor]] = {name: [] for name in names}
    for i in range(0, len(mine), size):
        batch = collate([samples[(batches.epoch, row)] for row in mine[i : i + size]])
        batch = {n: v.to(model.backbone.device) for n, v in batch.items() if isinstance(v, Tensor)}
        made = outputs.per_sample(batch)
        for name in names:
            rows_of[name].append(made[name].float().cpu())
    model.train(training)
    return {name: all_gather_rows(torch.cat(parts) if parts else torch.zeros(0, 1)) for name, parts in rows_of.items()}
