"""What a model type of transformers needs to be trained and asked inside mmdet and mmseg.

A type is one file of `families`, named after transformers' `model_type` ("-" becomes "_"), with a class `Model`.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ....core.backbones import ModelFolder
from ....core.errors import ConfigError, DataError
from ..plans.pipelines import nodes
from .boxes import BoxRanking

FOLDER = Path(__file__).with_name("families")
HEAD, TEXTS = "head", "texts"
"""How a model is asked for classes: by rows of its head, or by texts."""
BOXES, MASKS, MAP = "boxes", "masks", "map"
NOT_KEPT = frozenset(
    {"_name_or_path", "auto_map", "dtype", "torch_dtype", "id2label", "label2id", "num_labels"}
    | {"transformers_version", "use_pretrained_backbone", "custom_pipelines"}
)
"""Of a configuration: what changes no result, what is told otherwise, and what names files or code."""


@dataclass(frozen=True)
class Rates:
    """How the authors of a type fine-tune it.

    Args:
        lr, weight_decay: of AdamW, `betas` its moments.
        parts: text within the names of weights -> `lr_mult` and `decay_mult` of these weights.
        norm_decay: factor of the weight decay of norms; `bias_decay` of biases.
        clip: largest norm of the gradient; None clips none.
        ema: decay of the averaged weights; None averages none.
        betas: of AdamW.
    """

    lr: float
    weight_decay: float = 1e-4
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    norm_decay: float = 1.0
    bias_decay: float = 1.0
    clip: float | None = 0.1
    ema: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)


class Family(ABC):
    """Base of model types. An instance is of one configuration.

    Class attributes; `model_class`, `gives` and `head` may be an instance's own, where its configuration decides:
        model_class: name of the model in transformers; `model_class_of` decides where a type has several.
        processors: names of image processors of transformers that the type is used with, the usual first.
        gives: "boxes", "masks" (boxes and masks) or "map".
        gives_maps: whether a type of boxes or masks gives maps too.
        asked_by: "head" or "texts".
        recipe: the packaged recipe; "" for the one of all types that give the same.
        why_not: why it is not trained here, one clause; "" where it is.
        head: patterns of the names of tensors whose first axis counts classes; rows past these are of no object.
        per_box: names of losses that are divided by the number of boxes of one process, without what tells their layer;
            none where transformers counts those of all processes itself.
        ranking: which boxes it gives of its queries; None where `found` is its own, or it gives none.
        rates: how it is fine-tuned.
        hooks: of mmengine, that its training needs.

    Args:
        config: transformers' configuration as plain data, without names of classes.
        classes: number of rows of a closed head.
    """

    model_class: str
    processors: ClassVar[tuple[str, ...]]
    gives: str = BOXES
    gives_maps: ClassVar[bool] = False
    asked_by: ClassVar[str] = HEAD
    recipe: ClassVar[str] = ""
    why_not: ClassVar[str] = ""
    head: tuple[str, ...] = ()
    per_box: ClassVar[tuple[str, ...]] = ()
    ranking: ClassVar[BoxRanking | None] = None
    rates: ClassVar[Rates]
    hooks: ClassVar[tuple[dict[str, Any], ...]] = ()
    padding: tuple[float, ...] | None = None
    """What padded pixels are, which whoever prepares the images says; None for 0."""

    def __init__(self, config: Mapping[str, Any], classes: int):
        self.config, self.classes = dict(config), classes

    # the model --------------------------------------------------------------------------------------------------------

    def build(self) -> nn.Module:
        """transformers' model with random weights, from the configuration alone."""
        return self.built(self.class_of_model())

    def built(self, model_class: type[nn.Module]) -> nn.Module:
        """A model of a class with random weights.

        Raises:
            DataError: a value of the configuration that is not usable.
        """
        config = self.transformers_config()
        try:
            return model_class(config)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise self._unusable(error) from error

    def class_of_model(self) -> type[nn.Module]:
        """The class of transformers.

        Raises:
            ConfigError: the installed transformers has no such model.
        """
        import transformers

        if not hasattr(transformers, self.model_class):
            raise ConfigError(
                f"transformers {transformers.__version__} has no {self.model_class}; install a newer one with: "
                "pip install 'vladapt[detectors]'"
            )
        return getattr(transformers, self.model_class)

    def transformers_config(self):
        """The configuration as transformers' object.

        Raises:
            DataError: a value that transformers refuses.
        """
        from transformers import CONFIG_MAPPING

        stated = dict(self.config)
        kind = CONFIG_MAPPING[stated.pop("model_type")]
        names = {"num_labels": self.classes} if self.asked_by == HEAD else {}
        try:
            return kind.from_dict({**stated, **self.settings(), **names})
        except Exception as error:  # transformers and huggingface_hub raise of many kinds
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split())[:200]
        return DataError(
            f"config.json of the model ({self.config['model_type']}): its values are not usable ({reason}); copy or "
            "download it again"
        )

    @cached_property
    def stated(self):
        """The same, made once; to be read, not to be given to a model, which may change it."""
        return self.transformers_config()

    def settings(self) -> dict[str, Any]:
        """Keys of the configuration that differ from the checkpoint's: losses of all layers, as the authors train."""
        return {"auxiliary_loss": True}

    # the way of a batch -----------------------------------------------------------------------------------------------

    def inputs(self, pixels: Tensor, pixel_mask: Tensor, prompt: Any = None) -> dict[str, Any]:
        """Keywords of the model's `forward`.

        Args:
            pixels: (B, 3, H, W).
            pixel_mask: (B, H, W) long, 1 where an image is and 0 where it was padded.
            prompt: what texts became; None of a closed head.
        """
        return {"pixel_values": pixels, "pixel_mask": pixel_mask}

    def targets(self, samples: Sequence[Any], shape: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Truth as transformers' losses take it: class_labels (n,), boxes (n, 4) as centre and size in shares of the
        image without its padding, and for types with masks masks (n, H, W).

        Args:
            samples: of mmdet.
            shape: height and width of the padded batch.
        """
        return [self.target(sample, shape) for sample in samples]

    def target(self, sample: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Of one image; boxes without area are left out, as the processors do."""
        instances = sample.gt_instances
        corners = getattr(instances.bboxes, "tensor", instances.bboxes).float()
        height, width = sample.img_shape[:2]
        size = corners[:, 2:] - corners[:, :2]
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, size], dim=1)
        usable = (size > 0).all(dim=1)
        target = {
            "class_labels": instances.labels[usable],
            "boxes": (boxes / boxes.new_tensor([width, height, width, height]))[usable],
        }
        if self.gives == MASKS:
            masks = instances.masks.to_tensor(torch.float32, corners.device)  # (n, h, w)
            margins = (0, shape[1] - masks.shape[-1], 0, shape[0] - masks.shape[-2])
            target["masks"] = nn.functional.pad(masks, margins)[usable]
        return target

    def truth(self, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Keywords of the model's `forward` that make it compute its loss."""
        return {"labels": targets}

    def losses(self, outputs: Any, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The weighted parts of the loss; on one process their sum is transformers' `outputs.loss`.

        On several processes parts that are divided by the number of boxes are divided by the mean number of all
        processes, so that the gradient is that of all images together.
        """
        parts = self.weighted(outputs)
        if not self.per_box or get_world_size() == 1:
            return parts
        # What was divided by, over what is to be divided by.
        boxes = sum(len(target["class_labels"]) for target in targets)
        mean = torch.tensor(float(boxes), device=outputs.logits.device)
        all_reduce(mean, "mean")
        share = max(boxes, 1) / mean.clamp(min=1.0)
        per_box = re.compile(rf"({'|'.join(self.per_box)})(_.*)?")
        return {name: part * share if per_box.fullmatch(name) else part for name, part in parts.items()}

    def weighted(self, outputs: Any) -> dict[str, Tensor]:
        """The parts of transformers' loss times their weights; types whose parts are weighted already have no more to
        do."""
        return dict(outputs.loss_dict)

    def found(self, outputs: Any, sizes: Sequence[tuple[int, int]], chosen: Tensor | None = None) -> list[InstanceData]:
        """What the model finds in each image, as the type's own post-processing gives it at threshold 0: bboxes in
        pixels, scores, labels, and the queries that they are of.

        Args:
            sizes: (height, width) of each image.
            chosen: rows of the head that are asked for, whose places are the labels; None for all.

        Raises:
            NotImplementedError: the type gives no boxes, or is asked in another way.
        """
        if self.ranking is None:
            raise NotImplementedError(f"{self.model_class} gives no boxes by itself")
        return self.ranking.best(outputs.logits, outputs.pred_boxes, sizes, chosen)

    def raw(self, outputs: Any) -> dict[str, Tensor]:
        """What a graph gives: logits (B, Q, C), and boxes (B, Q, 4) or masks (B, Q, h, w) or both of the queries."""
        masks = {"masks": outputs.pred_masks} if self.gives == MASKS else {}
        return {"logits": outputs.logits, "boxes": outputs.pred_boxes, **masks}


@contextmanager
def large_enough(model_type: str) -> Iterator[None]:
    """In a context, torch's line about maps of one pixel, which norms cannot compare, is a ConfigError that says what
    helps."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"{model_type}: a map of these images has one pixel, which its norms cannot learn from or judge by; give "
            "larger images (fit --set plan.model.processor.size=\"{'height': 640, 'width': 640}\", with --epochs 0 for "
            "a run that only predicts), or a wider model"
        ) from error


def model_types() -> tuple[str, ...]:
    """transformers' names of the listed types."""
    return tuple(sorted(path.stem for path in FOLDER.glob("[a-z]*.py")))


def family_class(model_type: Any, where: str) -> type[Family]:
    """The class of a model type.

    Args:
        where: the file or the key that names it, for the message.

    Raises:
        DataError: no such type here.
    """
    name = str(model_type).replace("-", "_")
    if name not in model_types():
        shown = f"a model of type '{str(model_type)[:60]}', which is not supported" if model_type else "no model_type"
        raise DataError(f"{where} names {shown}; there are: {', '.join(model_types())}")
    return import_module(f"{__package__}.families.{name}").Model


def family_of(config: Mapping[str, Any], classes: int, where: str = "model.config") -> Family:
    """The type of a configuration, refused where a key of it could bring code or files.

    Raises:
        DataError: one line.
    """
    ModelFolder.check_config(config, where)
    # Neither code that a configuration names nor a backbone that would be downloaded.
    for part in nodes(config):
        if part.get("auto_map"):
            raise DataError(f"{where}: it names code of a repository (auto_map); remove it")
        if part.get("use_pretrained_backbone") or re.search(r"[:/\\]", str(part.get("backbone") or "")):
            raise DataError(f"{where}: its backbone would be downloaded ('{part.get('backbone')}'); remove that")
    return family_class(config.get("model_type"), where)(config, classes)


def plain_config(stated: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as a plan keeps it: without names of classes, versions, and where it came from."""
    return {
        key: plain_config(value) if isinstance(value, Mapping) else value
        for key, value in stated.items()
        if key not in NOT_KEPT
    }


def plain_values(value: Any) -> Any:
    """mmengine's dicts as plain ones."""
    if isinstance(value, Mapping):
        return {key: plain_values(inner) for key, inner in value.items()}
    return [plain_values(inner) for inner in value] if isinstance(value, (list, tuple)) else value
