"""The gradient of a detector of transformers on some of four drawn images."""

from types import ModuleType

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from vladapt.domains.open_vocab.hub_models.family import plain_config
from vladapt.domains.open_vocab.modules.detectors.hf_detector import HFDetector

COUNTS = (3, 2, 1, 0)
"""Boxes per image."""


def gradients_of(tiny: ModuleType, images: slice) -> dict[str, torch.Tensor]:
    """Of the loss of some of the images; batch norms as in tests, as they see one process alone.

    Args:
        tiny: the module of tiny models, which a test and a process of it import in different ways.
    """
    torch.set_num_threads(1)
    model, processor = tiny.rt_detr_v2(num_denoising=0)
    config = plain_config(model.config.to_dict())
    detector = HFDetector(config, tiny.NAMES, {**processor, "kind": processor.pop("image_processor_type")})
    detector.model.load_state_dict(model.state_dict())
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randn(len(COUNTS), 3, tiny.SIDE, tiny.SIDE, generator=drawn)[images]
    samples = []
    for count in COUNTS[images]:
        corners = torch.tensor([[4.0, 6, 28, 30], [10, 8, 40, 44], [30, 30, 60, 50]])[:count]
        truth = InstanceData(bboxes=corners, labels=torch.arange(3)[:count])
        about = {"img_shape": (tiny.SIDE, tiny.SIDE), "ori_shape": (tiny.SIDE, tiny.SIDE)}
        samples.append(DetDataSample(gt_instances=truth, metainfo=about))
    sum(detector.eval().loss(pixels, samples).values()).backward()
    return {name: weight.grad for name, weight in detector.named_parameters() if weight.grad is not None}
