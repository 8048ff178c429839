"""The gradients of detectors of transformers on some of four drawn images."""

import sys
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from vladapt.domains.open_vocab.hub_models.family import plain_config
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.modules.detectors.hf_detector import HFDetector
from vladapt.domains.open_vocab.modules.detectors.hf_text_detector import HFTextDetector

sys.path.insert(0, str(Path(__file__).parent))  # `import tiny`, in a test and in a process of it
import tiny

CLOSED = {"rt_detr_v2": {"num_denoising": 0}, "lw_detr": {"dropout": 0.0}, "rf_detr": {}}
"""Types, and what of their tiny models is set so that nothing is drawn by chance."""
TEXTS = "mm-grounding-dino"
TYPES = (*CLOSED, TEXTS)
COUNTS = (3, 2, 1, 0)
"""Boxes per image."""


def gradients_of(kind: str, images: slice, folder: Path | str) -> dict[str, torch.Tensor]:
    """Of the loss of some of the images; batch norms as in tests, as they see one process alone.

    Args:
        folder: of the tiny model that is asked by texts.
    """
    torch.set_num_threads(1)
    detector = (_asked_by_texts(folder) if kind == TEXTS else _closed(kind)).train()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randn(len(COUNTS), 3, tiny.SIDE, tiny.SIDE, generator=drawn)[images]
    samples = []
    for count in COUNTS[images]:
        corners = torch.tensor([[4.0, 6, 28, 30], [10, 8, 40, 44], [30, 30, 60, 50]])[:count]
        truth = InstanceData(bboxes=corners, labels=torch.arange(3)[:count])
        about = {"img_shape": (tiny.SIDE, tiny.SIDE), "ori_shape": (tiny.SIDE, tiny.SIDE)}
        samples.append(DetDataSample(gt_instances=truth, metainfo=about))
    sum(detector.loss(pixels, samples).values()).backward()
    return {name: weight.grad for name, weight in detector.named_parameters() if weight.grad is not None}


def _closed(kind: str) -> HFDetector:
    model, processor = getattr(tiny, kind)(**CLOSED[kind])
    options = {**processor, "kind": processor["image_processor_type"]}
    del options["image_processor_type"]
    detector = HFDetector(plain_config(model.config.to_dict()), tiny.NAMES, options)
    detector.model.load_state_dict(model.state_dict())
    return detector


def _asked_by_texts(folder: Path | str) -> HFTextDetector:
    source = hub_model(f"hf:{folder}")
    return HFTextDetector(source.config, list(tiny.NAMES), source.processor, pretrained=str(folder))
