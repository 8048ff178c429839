"""Model types whose classes are texts: how names become prompts, in training and when asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..vocabulary import Vocabulary
from .family import TEXTS, Family
from .tokens import HeldTokenizer


class _Prompt(Protocol):
    """What the images of a batch are asked together.

    Attributes:
        classes: indices of the classes asked for, as the model's scores are ordered.
    """

    classes: tuple[int, ...]


class TextFamily(Family):
    """Base of model types whose classes are texts.

    Class attributes:
        templates: what names are put into when asked, as of `Vocabulary.of`.
        no_graph: why it cannot be exported, one clause; "" where it can.
        of_tokens: name of a function of transformers' module that makes tensors (B, ...) of the tokens alone, in ways
            that ONNX cannot express: constants of a graph, whose rows are all asked the same; "" for none.
    """

    asked_by = TEXTS
    templates: ClassVar[str] = "name"
    no_graph: ClassVar[str] = ""
    of_tokens: ClassVar[str] = ""

    def check_tokenizer(self, model: nn.Module, tokenizer: HeldTokenizer) -> None:
        """Raise DataError for a tokenizer that cannot be this model's."""

    @abstractmethod
    def prompts(self, vocabulary: Vocabulary, tokenizer: HeldTokenizer) -> list[Any]:
        """What images are asked: several prompts where one does not hold all classes, each class in one of them."""

    @abstractmethod
    def training_prompt(
        self, vocabulary: Vocabulary, tokenizer: HeldTokenizer, present: Iterable[int], absent: Sequence[int]
    ) -> Any:
        """What a batch is asked in training: one prompt for all its images.

        Args:
            present: classes that the batch shows; read only where not all classes are asked for.
            absent: classes that are known not to be in one of its images.
        """

    @abstractmethod
    def embedded(self, model: nn.Module, prompt: Any) -> Any:
        """What of a prompt does not depend on images, made once while the model does not train; None for nothing."""

    def outputs(
        self,
        model: nn.Module,
        pixels: Tensor,
        pixel_mask: Tensor,
        prompt: Any,
        embedded: Any = None,
        labels: Any = None,
    ) -> Any:
        """Of the model, as transformers gives them.

        Args:
            embedded: of the prompt; None makes it.
            labels: in training, of the classes of the prompt.
        """
        truth = {} if labels is None else {"labels": labels}
        return model(**self.inputs(pixels, pixel_mask, prompt), **truth)

    @abstractmethod
    def answers(self, outputs: Any, prompt: Any) -> tuple[Tensor, Tensor]:
        """Scores (B, Q, C) of the prompt's classes, and boxes (B, Q, 4), centre and size in shares of the image."""

    def pixels_of_boxes(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that boxes are shares of, of an image of this height and width."""
        return size

    def best_of_prompts(
        self, answers: Sequence[tuple[Tensor, Tensor, _Prompt]], sizes: Sequence[tuple[int, int]], most: int
    ) -> list[InstanceData]:
        """The best pairs of a query and a class, in one ranking over all prompts.

        Args:
            answers: of each prompt scores (B, Q, C), boxes (B, Q, 4), and itself.
            sizes: (height, width) of each image.
            most: boxes per image.
        """
        scores = torch.cat([scores.flatten(1) for scores, _, _ in answers], dim=1)  # (B, all pairs)
        corners = box_convert(torch.cat([boxes for _, boxes, _ in answers], dim=1), "cxcywh", "xyxy")
        queries = torch.arange(corners.shape[1]).split([boxes.shape[1] for _, boxes, _ in answers])
        pairs = zip(queries, (prompt.classes for _, _, prompt in answers), strict=True)
        pairs = torch.cat([torch.cartesian_prod(own, torch.tensor(classes)) for own, classes in pairs]).to(
            scores.device
        )
        best, places = scores.topk(min(most, scores.shape[1]), dim=1)
        instances = []
        for image, size in enumerate(sizes):
            height, width = self.pixels_of_boxes(size)
            query, label = pairs[places[image]].unbind(dim=1)
            boxes = corners[image, query] * corners.new_tensor([width, height, width, height])
            instances.append(InstanceData(bboxes=boxes, scores=best[image], labels=label))
        return instances


def placed_in_prompt(targets: Sequence[dict[str, Tensor]], prompt: _Prompt) -> list[dict[str, Tensor]]:
    """Targets with the places of their classes in the prompt; boxes of classes that it does not ask for are left
    out."""
    kept = []
    for target in targets:
        classes = target["class_labels"]
        same = classes[:, None] == torch.tensor(prompt.classes, device=classes.device)  # (n, C)
        here = same.any(dim=1)
        labels = same.int().argmax(dim=1)[here] if len(prompt.classes) else classes[here]
        kept.append({**{name: value[here] for name, value in target.items()}, "class_labels": labels})
    return kept
