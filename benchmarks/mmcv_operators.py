"""vladapt's versions of mmcv's operators, compared with a compiled mmcv if there is one, otherwise with torchvision's.

    python benchmarks/mmcv_operators.py [--compiled FILE] [--runs N] [--threads N]

The compiled operators are those of the installed mmcv, or of FILE, a built `mmcv/_ext*.so`. Each pair runs in turn in
one process, by default on one thread, as the compiled ones use no more. A row gives the minimum of N runs, in
wall-clock milliseconds and, in brackets, CPU milliseconds, which are more reliable where others use the machine.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
import torchvision

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.domains.open_vocab.stack.import_hooks import EXTENSION, operators_are_ours
from vladapt.domains.open_vocab.stack.mmcv_ext import OPERATORS

generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def boxes(count: int, height: float, width: float) -> torch.Tensor:
    """(N, 4), as x1, y1, x2, y2: of a side of 8 to a third of the image."""
    size = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=generator) * size
    side = 8 + torch.rand(count, 2, generator=generator) * size / 3
    return torch.cat([corner, torch.minimum(corner + side, size)], dim=1)


BOXES, SCORES = boxes(2000, 800, 1216), torch.rand(2000, generator=generator)
DETS = torch.cat([BOXES, SCORES[:, None]], dim=1)
FEATURES = normal(2, 256, 50, 76)
ROIS = torch.cat([torch.arange(256).remainder(2)[:, None].float(), boxes(256, 800, 1216)], dim=1)
POOLED = normal(256, 256, 7, 7)
SAMPLING = {"aligned_height": 7, "aligned_width": 7, "spatial_scale": 1 / 16, "sampling_ratio": 0, "aligned": True}
IMAGE, WEIGHT, OUT = normal(2, 128, 32, 48), normal(128, 128, 3, 3), normal(2, 128, 32, 48)
OFFSET, MASK = normal(2, 18, 32, 48), normal(2, 9, 32, 48).sigmoid()
KERNEL = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1, "dilationW": 1, "dilationH": 1}
KERNEL |= {"group": 1, "deformable_group": 1, "im2col_step": 2}
MODULATED = {"kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1, "dilation_h": 1}
MODULATED |= {"dilation_w": 1, "group": 1, "deformable_group": 1, "with_bias": True}
PSA = {"psa_type": 0, "num_": 1, "h_feature": 24, "w_feature": 24, "h_mask": 47, "w_mask": 47}
PSA |= {"half_h_mask": 23, "half_w_mask": 23}
SPATIAL, STARTS = torch.tensor([[32, 48], [16, 24], [8, 12]]), torch.tensor([0, 1536, 1920])


def soft_nms(ops):
    dets = torch.zeros(1000, 5)
    kept = ops["softnms"](BOXES[:1000], SCORES[:1000], dets, 0.5, 0.5, 0.05, 2, 0)
    return kept, dets[: len(kept)]


def overlaps(ops):
    ious = torch.empty(2000, 2000)
    ops["bbox_overlaps"](BOXES, BOXES, ious, 0, False, 0)
    return ious


def roi_align(ops, mode):
    out, y, x = (torch.zeros(256, 256, 7, 7) for _ in range(3))
    ops["roi_align_forward"](FEATURES, ROIS, out, y, x, pool_mode=mode, **SAMPLING)
    return out


def roi_align_backward(ops):
    grad, none = torch.zeros_like(FEATURES), torch.empty(0)
    ops["roi_align_backward"](POOLED, ROIS, none, none, grad, pool_mode=1, **SAMPLING)
    return grad


def roi_pool(ops):
    out, argmax = torch.zeros(256, 256, 7, 7), torch.zeros(256, 256, 7, 7, dtype=torch.int)
    ops["roi_pool_forward"](FEATURES, ROIS, out, argmax, 7, 7, 1 / 16)
    return out


def deform_conv(ops):
    out = torch.empty_like(OUT)
    ops["deform_conv_forward"](IMAGE, WEIGHT, OFFSET, out, torch.empty(0), torch.empty(0), **KERNEL)
    return out


def deform_conv_backward(ops):
    grad_out, none = OUT.clone(), torch.empty(0)
    grads = [torch.zeros_like(tensor) for tensor in (IMAGE, OFFSET, WEIGHT)]
    ops["deform_conv_backward_input"](IMAGE, OFFSET, grad_out, *grads[:2], WEIGHT, none, **KERNEL)
    ops["deform_conv_backward_parameters"](IMAGE, OFFSET, grad_out, grads[2], none, none, scale=1, **KERNEL)
    return tuple(grads)


def modulated(ops):
    out, bias, none = torch.empty_like(OUT), torch.zeros(128), torch.empty(0)
    ops["modulated_deform_conv_forward"](IMAGE, WEIGHT, bias, none, OFFSET, MASK, out, none, **MODULATED)
    return out


def modulated_backward(ops):
    bias, none = torch.zeros(128), torch.empty(0)
    grads = [torch.zeros_like(tensor) for tensor in (IMAGE, WEIGHT, bias, OFFSET, MASK)]
    ops["modulated_deform_conv_backward"](IMAGE, WEIGHT, bias, none, OFFSET, MASK, none, *grads, OUT, **MODULATED)
    return tuple(grads)


PSA_MASK, PSA_GRADIENT = normal(1, 47 * 47, 24, 24), normal(1, 576, 24, 24)


def psa_mask(ops):
    out = torch.zeros(1, 576, 24, 24)
    ops["psamask_forward"](PSA_MASK, out, **PSA)
    return out


def psa_mask_backward(ops):
    grad = torch.zeros_like(PSA_MASK)
    ops["psamask_backward"](PSA_GRADIENT, grad, **PSA)
    return grad


VALUE = normal(2, 2016, 8, 32)
LOCATIONS, ATTENTION = normal(2, 900, 8, 3, 4, 2).sigmoid(), normal(2, 900, 8, 12).softmax(-1).unflatten(3, (3, 4))


def attention(ops):
    return ops["ms_deform_attn_forward"](VALUE, SPATIAL, STARTS, LOCATIONS, ATTENTION, 64)


LOGITS, TARGETS = normal(20_000, 80), torch.randint(0, 81, (20_000,), generator=generator)


def focal_loss(ops):
    out = torch.empty_like(LOGITS)
    ops["sigmoid_focal_loss_forward"](LOGITS, TARGETS, torch.empty(0), out, 2.0, 0.25)
    return out


CARAFE_MASKS = normal(2, 25, 64, 96)


def carafe(ops):
    out = torch.empty(2, 128, 64, 96)
    ops["carafe_naive_forward"](IMAGE, CARAFE_MASKS, out, 5, 1, 2)
    return out


# Each row: what runs, on what, with the functions of one side, and torchvision's own where it has one.
ROWS: dict[str, tuple[str, Callable, Callable | None]] = {
    "nms": (
        "2,000 boxes",
        lambda ops: ops["nms"](BOXES, SCORES, 0.5, 0),
        lambda: torchvision.ops.nms(BOXES, SCORES, 0.5),
    ),
    "nms, offset 1": ("2,000 boxes", lambda ops: ops["nms"](BOXES, SCORES, 0.5, 1), None),
    "soft_nms": ("1,000 boxes", soft_nms, None),
    "nms_match": ("2,000 boxes", lambda ops: ops["nms_match"](DETS, 0.5), None),
    "bbox_overlaps": ("2,000 x 2,000", overlaps, None),
    "roi_align": (
        "256 regions, 256 x 50 x 76",
        lambda ops: roi_align(ops, 1),
        lambda: torchvision.ops.roi_align(FEATURES, ROIS, 7, 1 / 16, 0, True),
    ),
    "roi_align, backward": ("the same", roi_align_backward, None),
    "roi_align, max": ("the same", lambda ops: roi_align(ops, 0), None),
    "roi_pool": ("the same", roi_pool, None),
    "deform_conv": (
        "2 x 128 x 32 x 48, 3 x 3",
        deform_conv,
        lambda: torchvision.ops.deform_conv2d(IMAGE, OFFSET, WEIGHT, padding=1),
    ),
    "deform_conv, backward": ("the same", deform_conv_backward, None),
    "modulated_deform_conv": (
        "the same",
        modulated,
        lambda: torchvision.ops.deform_conv2d(IMAGE, OFFSET, WEIGHT, padding=1, mask=MASK),
    ),
    "modulated_deform_conv, backward": ("the same", modulated_backward, None),
    "psa_mask": ("24 x 24, mask 47 x 47", psa_mask, None),
    "psa_mask, backward": ("the same", psa_mask_backward, None),
    "ms_deform_attn": ("900 queries, 3 levels, 4 points", attention, None),
    "sigmoid_focal_loss": ("20,000 x 80", focal_loss, None),
    "carafe": ("2 x 128 x 32 x 48 to twice, 5 x 5", carafe, None),
}


def compiled_operators(path: Path | None) -> dict | None:
    """Those of FILE, or of the installed mmcv if it has any."""
    if path is not None:
        name = path.name.partition(".")[0]
        spec = spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return vars(module)
    return None if operators_are_ours() else vars(importlib.import_module(EXTENSION))


def least(sides: list[Callable[[], object]], runs: int) -> list[tuple[float, float]]:
    """(clock, CPU) milliseconds of each side, the least of its runs; the sides take turns."""
    times = [[] for _ in sides]
    for _ in range(runs + 1):
        for side, taken in zip(sides, times, strict=True):
            clock, cpu = time.perf_counter(), time.process_time()
            side()
            taken.append((1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - cpu)))
    return [tuple(map(min, zip(*taken[1:], strict=True))) for taken in times]


def same(ours, theirs) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.allclose(ours.float(), theirs.float(), rtol=1e-4, atol=1e-3)
    if isinstance(ours, tuple):
        return all(map(same, ours, theirs))
    return ours == theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compiled", type=Path, metavar="FILE", help="a built mmcv/_ext*.so")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compiled = compiled_operators(args.compiled)
    other = "torchvision" if compiled is None else "compiled mmcv"
    print(f"threads: {args.threads}; ms of the clock (of the CPU), least of {args.runs} runs; ratio of CPU times\n")
    print(f"| operator | on | vladapt | {other} | ratio | same |\n|---|---|---:|---:|---:|---|")
    for name, (size, run, torchvisions) in ROWS.items():
        sides = [lambda run=run: run(OPERATORS)]
        theirs = torchvisions if compiled is None else (lambda run=run: run(compiled))
        try:
            agrees = "" if theirs is None else str(same(sides[0](), theirs())).lower()
            sides += [theirs] if theirs is not None else []
        except (KeyError, RuntimeError):
            # A compiled mmcv has no CPU kernel of this one, or FILE was built without it.
            agrees = ""
        found = least(sides, args.runs)
        shown = [f"{clock:,.1f} ({cpu:,.1f})" for clock, cpu in found] + ["none"] * (2 - len(found))
        ratio = f"{found[0][1] / found[1][1]:.2f}" if len(found) == 2 else ""
        print(f"| `{name}` | {size} | {shown[0]} | {shown[1]} | {ratio} | {agrees} |", flush=True)


if __name__ == "__main__":
    main()
