"""Which detectors and segmentors become ONNX graphs: what `vladapt export` says of each, and what torch's exporter
does.

    python benchmarks/exported_types.py                       # all types; 10 minutes of CPU time
    python benchmarks/exported_types.py fpn mask-rcnn         # some

Each recipe of the wing, and a config of mmdet or mmseg for each further kind of head, is built with random weights on a
small tower, and nothing is downloaded. Three columns: whether `vladapt export` takes the type, or why not; whether
torch's exporter writes the raw network (all that comes before boxes are chosen, or logits of pixels); and whether that
graph gives what torch gives on the size that it was traced with, and on another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import CapabilityError, as_message, shortened
from vladapt.core.export import Graph
from vladapt.core.export.agreement import LARGEST_SHARE
from vladapt.core.export.folder import Session
from vladapt.core.testing.towers import drawn_clip
from vladapt.domains.open_vocab.exporting.detectors import BoxForm
from vladapt.domains.open_vocab.exporting.run import sizes_by_strides
from vladapt.domains.open_vocab.exporting.segmentors import Maps, _upsampled
from vladapt.domains.open_vocab.plans.kinds import DETECTION, SEGMENTATION
from vladapt.domains.open_vocab.plans.pipelines import mapped_values, testing_pipeline
from vladapt.domains.open_vocab.stack.packaged_configs import packaged_config
from vladapt.domains.open_vocab.tasks._by_names import RECIPES
from vladapt.registry import MODELS

RECIPE_NAMES = (
    *("faster-rcnn", "mask-rcnn", "retinanet", "yolo-world", "owlvit-small", "denseclip-retinanet"),
    *("mask2former-panoptic", "fpn", "upernet", "mask2former", "denseclip", "maskclip", "sclip", "cliper"),
)
"""Those that differ in their model; `regionclip` and `alpha-clip` name regions, the other training-free ones are like
`sclip`."""
PACKAGED = {
    "FCOS": "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "ATSS": "mmdet::atss/atss_r50_fpn_1x_coco.py",
    "GFL": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    "YOLOX": "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",
    "RTMDet": "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "RTMDet-Ins": "mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
    "SSDLite": "mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
    "DETR": "mmdet::detr/detr_r50_8xb2-150e_coco.py",
    "Deformable DETR": "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "DINO": "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
    "PSPNet": "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "DeepLabV3+": "mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "SegFormer": "mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
}
TOWER = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
"""A vision transformer, for recipes that need tokens."""
TOKENS = ("owlvit-small", "maskclip", "sclip", "cliper")
NAMES = ["cat", "dog", "emu"]
SIZES = ((64, 96), (128, 64))


class Raw(nn.Module):
    """Pixels -> all that a detector computes before it chooses boxes, or logits of pixels; and how many tensors."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        metas = {"img_shape": tuple(pixels.shape[2:]), "ori_shape": tuple(pixels.shape[2:])}
        metas |= {"batch_input_shape": tuple(pixels.shape[2:]), "pad_shape": tuple(pixels.shape[2:])}
        if hasattr(self.model, "encode_decode"):
            return (self.model.encode_decode(pixels, [metas]),)
        from mmdet.structures import DetDataSample

        samples = [DetDataSample(metainfo={**metas, "scale_factor": (1.0, 1.0), "img_id": 0})]
        return tuple(_tensors(self.model.forward(pixels, samples, mode="tensor")))


def built(name: str, spec: str) -> tuple[nn.Module, type]:
    """The model of a recipe or a packaged config, and the form that it would have."""
    file = packaged_config(PACKAGED[name]) if name in PACKAGED else RECIPES / f"{name.replace('-', '_')}.py"
    config = Config.fromfile(str(file)).to_dict()
    kind = DETECTION if config["default_scope"] == "mmdet" else SEGMENTATION
    model = mapped_values(config["model"], lambda value: "BN" if value in ("SyncBN", "naiveSyncBN") else value)
    if name in TOKENS:
        model = mapped_values(model, lambda value: spec if value == "embedded" else value)
    init_default_scope(kind.scope)
    torch.manual_seed(0)
    made = MODELS.build(Config(_without_weights(model))).eval()
    kept = {"classes": NAMES, "suppress": "none", "test_pipeline": testing_pipeline(config, kind), "task": kind.task}
    made.cfg = Config({"default_scope": kind.scope, "vladapt": kept})
    return made, BoxForm if kind is DETECTION else Maps


def told(model: nn.Module, form: type) -> str:
    """What `vladapt export` says of a type."""
    try:
        form(model).check()
    except CapabilityError as error:
        return as_message(str(error))
    return "yes"


def traced(model: nn.Module, folder: Path) -> tuple[str, str]:
    """Whether torch's exporter writes the raw network, and how far it agrees."""
    raw, first = Raw(model).eval(), torch.randn(1, 3, *SIZES[0], generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        stack.enter_context(sizes_by_strides())
        if hasattr(model, "encode_decode"):
            from mmseg.models.utils import Upsample

            stack.enter_context(mock.patch.object(Upsample, "forward", _upsampled))
        try:
            with torch.no_grad():
                names = [f"out_{number}" for number in range(len(raw(first)))]
            Graph(raw, {"pixels": first}, names, {"pixels": (2, 3)}).write(folder / "model.onnx", 18, {})
            ask = Session(folder / "model.onnx")
            agreed = ", ".join(_agreement(raw, ask, size) for size in SIZES)
        except Exception as error:  # of a module, of the exporter or of onnxruntime
            reason = " ".join(str(error).split()) or type(error).__name__
            return "no", shortened(reason.removeprefix("ONNX cannot express this model "), 160)
    return "yes", agreed


def _agreement(raw: nn.Module, ask: Session, size: tuple[int, int]) -> str:
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = [each.numpy() for each in raw(pixels)]
    try:
        found = list(ask(pixels=pixels.numpy()).values())
    except Exception as error:  # onnxruntime has an exception for each of its codes
        return f"{size[0]} x {size[1]}: {shortened(' '.join(str(error).split())[-90:], 90)}"
    if any(one.shape != other.shape for one, other in zip(wanted, found, strict=True)):
        return f"{size[0]} x {size[1]}: other shapes"
    shares = [np.abs(one - other).max() / (np.ptp(one) or 1.0) for one, other in zip(wanted, found) if one.size]
    apart = max(map(float, shares), default=0.0)
    return f"{size[0]} x {size[1]}: {'equal' if apart <= LARGEST_SHARE else 'differs'} ({apart:.0e} of the range)"


def _tensors(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made.float()
    elif isinstance(made, Mapping):
        for each in made.values():
            yield from _tensors(each)
    elif isinstance(made, (tuple, list)):
        for each in made:
            yield from _tensors(each)
    elif hasattr(made, "keys"):  # what mmdet finds in an image
        yield from _tensors([made[key] for key in made.keys()])  # noqa: SIM118


def _without_weights(value: Any) -> Any:
    """A config whose parts start from random weights."""
    if isinstance(value, dict):
        return {key: _without_weights(inner) for key, inner in value.items() if key not in ("init_cfg", "pretrained")}
    return type(value)(map(_without_weights, value)) if isinstance(value, (list, tuple)) else value


def _small_clip(folder: Path) -> str:
    import json

    from safetensors.torch import save_file

    (folder / "small.json").write_text(json.dumps(TOWER))
    torch.manual_seed(0)
    tensors = {name: value.contiguous() for name, value in drawn_clip(TOWER).state_dict().items()}
    save_file(tensors, folder / "small.safetensors")
    return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"


def main(arguments: list[str] | None = None) -> None:
    names = (*RECIPE_NAMES, *PACKAGED)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help=f"by default all: {', '.join(names)}")
    chosen = parser.parse_args(arguments).types or names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"{unknown[0]}: give some of {', '.join(names)}")
    print("| type | `vladapt export` | raw network by torch's exporter | the graph, beside torch |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        spec = _small_clip(Path(folder))
        for name in chosen:
            try:
                model, form = built(name, spec)
            except Exception as error:
                print(f"{name}: cannot be built ({shortened(' '.join(str(error).split()), 200)})", file=sys.stderr)
                continue
            row = (name, told(model, form), *traced(model, Path(folder)))
            print(f"| {' | '.join(each.replace('|', '/') for each in row)} |", flush=True)


if __name__ == "__main__":
    main()
