"""Drawn images with annotations, as the pipelines of mmdet and mmsegmentation would hand them to each kind of model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models import SemiBaseDetector
from mmdet.models.mot import BaseMOTModel
from mmdet.models.reid import BaseReID
from mmdet.structures import DetDataSample, ReIDDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from .reduced import least, parts, side_of

BOXES = torch.tensor([[0.1, 0.15, 0.55, 0.7], [0.4, 0.3, 0.95, 0.9], [0.6, 0.05, 0.9, 0.3]])
"""(3, 4), in shares of an image."""
WORDS = ("cat", "dog", "bird")
IMAGES, FRAMES, PROPOSALS = 2, 2, 24
PERSON = (256, 128)
"""Height and width of a picture of one person."""

Batch = dict[str, Any]


def batches(model: BaseModel, config: Config) -> tuple[Batch, Batch]:
    """(a batch to train on, one to be asked of), as `data_preprocessor` takes them."""
    if isinstance(model, BaseSegmentor):
        return _of_two(_segmentation, config)
    if isinstance(model, BaseReID):
        return _persons(range(2 * IMAGES)), _persons([0])
    train, test = _of_two(_detection, config)
    if isinstance(model, SemiBaseDetector):
        branches = ("sup", "unsup_teacher", "unsup_student")
        return {key: dict.fromkeys(branches, values) for key, values in train.items()}, test
    if isinstance(model, BaseMOTModel):
        clip = _video(config)
        return (train if _packs_images(config) else clip), clip
    return train, test


def _of_two(draw: Callable[[Config, int], tuple[Tensor, Any]], config: Config) -> tuple[Batch, Batch]:
    drawn = [draw(config, index) for index in range(IMAGES)]
    train, test = (
        {"inputs": [image for image, _ in some], "data_samples": [sample for _, sample in some]}
        for some in (drawn, drawn[:1])
    )
    return train, {**test, "data_samples": [sample.clone() for sample in test["data_samples"]]}


def _packs_images(config: Config) -> bool:
    """Whether its training set gives single images: ByteTrack's detector, for one, learns from them."""
    return any(part.get("type") == "PackDetInputs" for part in _reading(config))


def _reading(config: Config) -> list[ConfigDict]:
    """Its training set and transforms, each part of them."""
    return [part for key in ("train_pipeline", "train_dataloader") for part in parts(config.get(key, {}))]


def _detection(config: Config, index: int) -> tuple[Tensor, DetDataSample]:
    """Boxes, a map of classes and the names asked for; masks and proposals where its pipeline loads some."""
    side = side_of(config)
    sample = DetDataSample(metainfo=_about(index, side))
    names = least(config, "num_classes", len(WORDS))
    sample.gt_instances = _instances(names, side)
    if _reads_masks(config):
        sample.gt_instances.masks = _masks(side)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    if any(part.get("type") == "LoadProposals" for part in _reading(config)):
        sample.proposals = _proposals(index, side)
    stuff = least(config, "num_stuff_classes", min(names, 4))
    if stuff:
        rescaled = [part["scale_factor"] for part in parts(config.to_dict()) if part.get("type") == "SegRescale"]
        squares = _squares(round(side * (rescaled or [1])[0]), stuff)
        sample.gt_sem_seg = PixelData(sem_seg=squares + least(config, "num_things_classes", 0))
    if "language_model" in config.model:
        sample.set_metainfo({"text": " . ".join(WORDS[:names]), "custom_entities": True})
    return _picture(index, side, side), sample


def _segmentation(config: Config, index: int) -> tuple[Tensor, SegDataSample]:
    side = side_of(config)
    sample = SegDataSample(metainfo=_about(index, side))
    names = max(2, least(config, "num_classes", 2))
    sample.gt_sem_seg = PixelData(data=_squares(side, names))
    sample.gt_edge_map = PixelData(data=_squares(side, 2))
    sample.gt_depth_map = PixelData(data=1 + _squares(side, 4).float())
    means = config.model.get("data_preprocessor", {}).get("mean") or [0] * 3  # two images beside each other have six
    return _picture(index, side, side, len(means)), sample


def _persons(views: Sequence[int]) -> Batch:
    """One sample of pictures, each two of a person: triplets want both."""
    sample = ReIDDataSample(metainfo={"img_shape": PERSON, "ori_shape": PERSON})
    sample.set_gt_label([view // 2 for view in views])
    return {"inputs": [torch.stack([_picture(view, *PERSON) for view in views])], "data_samples": [sample]}


def _video(config: Config) -> Batch:
    """One clip of the same instances."""
    drawn = [_detection(config, frame) for frame in range(FRAMES)]
    for frame, (_, sample) in enumerate(drawn):
        sample.set_metainfo({"frame_id": frame, "ori_video_length": FRAMES, "video_id": 0, "video_length": FRAMES})
    clip = TrackDataSample(metainfo={"key_frames_inds": [0], "ref_frames_inds": list(range(1, FRAMES))})
    clip.video_data_samples = [sample for _, sample in drawn]
    return {"inputs": [torch.stack([image for image, _ in drawn])], "data_samples": [clip]}


def _about(index: int, side: int) -> dict[str, Any]:
    """What a pipeline says of an image."""
    named = {"img_id": index, "img_path": f"{index}.png", "flip": False, "flip_direction": None}
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (side, side))
    placed = {"scale_factor": (1.0, 1.0), "border": (0, side, 0, side), "homography_matrix": np.eye(3, dtype="float32")}
    return {**named, **shapes, **placed}


def _instances(names: int, side: int) -> InstanceData:
    """Three boxes, with labels below `names` and identities."""
    identities = torch.arange(len(BOXES))
    return InstanceData(bboxes=side * BOXES, labels=identities % names, instances_ids=identities)


def _proposals(seed: int, side: int) -> InstanceData:
    generator = torch.Generator().manual_seed(seed)
    moved = BOXES.repeat(PROPOSALS // len(BOXES), 1) + 0.02 * torch.randn(PROPOSALS, 4, generator=generator)
    return InstanceData(bboxes=side * moved.clamp(0, 1), scores=torch.rand(PROPOSALS, generator=generator))


def _reads_masks(config: Config) -> bool:
    read = _reading(config)
    return any(part.get("with_mask") or part.get("type") == "LoadPanopticAnnotations" for part in read)


def _masks(side: int) -> BitmapMasks:
    """Of three ellipses in the boxes."""
    left, top, right, bottom = (side * BOXES[:, :, None, None]).unbind(1)
    across = (2 * torch.arange(side) - left - right) / (right - left)
    down = (2 * torch.arange(side)[:, None] - top - bottom) / (bottom - top)
    return BitmapMasks((across.square() + down.square() <= 1).numpy().astype(np.uint8), side, side)


def _squares(side: int, classes: int) -> Tensor:
    """(1, side, side) int64: a pattern of 4 x 4 squares of the first classes."""
    square = torch.arange(side) * 4 // side
    return ((square[:, None] + square) % classes)[None]


def _picture(seed: int, height: int, width: int, channels: int = 3) -> Tensor:
    """(channels, height, width) uint8: smooth noise."""
    coarse = 255 * torch.rand(1, channels, 16, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].byte()
