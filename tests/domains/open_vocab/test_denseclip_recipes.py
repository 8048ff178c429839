"""The packaged configs of DenseCLIP: they build, learn at the published ratios, and fit any number of classes."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")

from mmdet.structures import DetDataSample
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

import vladapt.domains.open_vocab as open_vocab
from vladapt.registry import MODELS

RECIPES = Path(open_vocab.__file__).parent / "recipes"
META = {"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64), "scale_factor": (1.0, 1.0)}


def built(name, classes):
    config = Config.fromfile(RECIPES / f"{name}.py")
    config.model["classes"] = classes
    return MODELS.build(config.model), config


@pytest.fixture
def masks():
    truth = torch.randint(4, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    return [SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=META) for mask in truth]


@pytest.fixture
def boxes():
    samples = [DetDataSample(metainfo=META) for _ in range(2)]
    for sample in samples:
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 40.0, 44.0]]), labels=torch.tensor([3]))
    return samples


@pytest.mark.parametrize(("name", "truth"), [("denseclip", "masks"), ("denseclip_retinanet", "boxes")])
def test_it_builds_with_the_data_s_classes_and_learns(name, truth, request):
    model, config = built(name, ["cat", "dog", "car", "tree"])
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss, _ = model.parse_losses(model(pixels, request.getfixturevalue(truth), mode="loss"))
    loss.backward()
    assert torch.isfinite(loss) and model.matching.contexts.grad.abs().max() > 0
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    base = config.optim_wrapper.optimizer.lr
    (tower,) = {rates[id(p)] for p in model.backbone.part.parameters() if p.requires_grad}
    assert tower == pytest.approx(0.1 * base)
    assert rates[id(model.matching.contexts)] == base
