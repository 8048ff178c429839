"""A training step on image-text pairs beside open_clip's own training loop, same model, same batches, same device.

    python benchmarks/pair_training.py                                    (a small model, on the CPU)
    python benchmarks/pair_training.py --arch ViT-B-16 --batch-size 256 --amp bf16 --device cuda

Pixels and tokens are made once and lie on the device, so that loading is not measured. On a GPU peak memory and the
share of the card's bf16 peak are printed too; the work of a step is counted by torch, forward and backward.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from argparse import Namespace
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

from vladapt.core.backbones.load import load_backbone
from vladapt.core.training.layers import set_trainable
from vladapt.core.training.model import PairModel, dims_of
from vladapt.core.training.objective import build_objective
from vladapt.core.training.optimizer import build_optimizer
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.tower_outputs import Outputs

BF16_PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}
SMALL = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 96, "layers": 6, "width": 256, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
}


def our_steps(backbone, batch: dict, settings: TrainingSettings):
    """A call that does one step of ours."""
    set_trainable(backbone)
    objective = build_objective({"clip": 1.0}, dims_of(backbone, len(batch["pixels"])))
    outputs = Outputs(backbone, objective.needs)
    model = PairModel(backbone, objective.to(backbone.device), outputs, settings).train()
    optimizer = build_optimizer(backbone, [objective, outputs], settings)
    return lambda: model.train_step(batch, optimizer)


def their_steps(backbone, batch: dict, settings: TrainingSettings):
    """A call that does one step of open_clip's loop."""
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    logging.disable(logging.INFO)
    model = backbone.model.train().requires_grad_(True)
    model.output_dict = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=settings.betas, eps=settings.eps)
    args = Namespace(
        device=str(backbone.device), precision="amp_bf16" if settings.amp else "fp32", distill=False, accum_freq=1,
        skip_scheduler=True, horovod=False, grad_clip_norm=None, log_every_n_steps=10**9, world_size=1, rank=0,
        local_rank=0, log_local=False, batch_size=len(batch["pixels"]), wandb=False,
    )  # fmt: skip

    class Loader(list):
        num_batches, num_samples = 1, len(batch["pixels"])

    data = {"train": SimpleNamespace(dataloader=Loader([(batch["pixels"], batch["tokens"])]), set_epoch=lambda e: None)}
    loss = ClipLoss()
    return lambda: train_one_epoch(model, data, loss, 0, optimizer, None, None, None, args)


def measure(step, device: torch.device, images: int, repeats: int) -> tuple[float, float]:
    """(images per second, peak GiB on the GPU)."""
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return images / sorted(seconds)[len(seconds) // 2], peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def spec_of(arch: str, folder: str) -> str:
    if arch != "small":
        return f"open_clip:{arch}@random"
    import json
    from pathlib import Path

    (Path(folder) / "small.json").write_text(json.dumps(SMALL))
    return f"open_clip:{folder}/small.json@random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="small", help="an architecture of open_clip")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--amp", choices=("bf16",), default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    settings = TrainingSettings(batch_size=options.batch_size, amp=options.amp, lr=1e-5, weight_decay=0.0)
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"{options.arch}, batch {options.batch_size}, {options.amp or 'float32'}, {card}, torch {torch.__version__}")
    flops = None
    with tempfile.TemporaryDirectory() as folder:
        for name, steps in (("open_clip", their_steps), ("vladapt", our_steps)):
            backbone = load_backbone(spec_of(options.arch, folder), device=options.device)
            side = backbone.image_size
            pixels = torch.randn(options.batch_size, 3, side, side, device=backbone.device)
            words = [f"a photo of thing number {i} among others" for i in range(options.batch_size)]
            step = steps(backbone, {"pixels": pixels, "tokens": backbone.tokenize(words).to(backbone.device)}, settings)
            if flops is None:  # open_clip's passes are the library's own and run whole; ours leave padding out
                with FlopCounterMode(display=False) as counter:
                    step()
                flops = counter.get_total_flops()
            speed, peak = measure(step, backbone.device, options.batch_size, options.repeats)
            top = next((value for key, value in BF16_PEAK_TFLOPS.items() if key in card), None)
            share = f", {speed / options.batch_size * flops / 1e12 / top:.0%} of the bf16 peak" if top else ""
            memory = f", {peak:.1f} GiB" if options.device.startswith("cuda") else ""
            print(f"{name:10s} {speed:8.1f} images/s{memory}{share}")


if __name__ == "__main__":
    main()
