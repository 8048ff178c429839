"""A training step on image-text pairs compared with open_clip's own training loop: same model, batches and device.

    python benchmarks/pair_training.py                                    (a small model, on the CPU)
    python benchmarks/pair_training.py --decode                           (from JPEG files, texts tokenised, too)
    python benchmarks/pair_training.py --arch ViT-B-16 --batch-size 256 --amp bf16 --device cuda

The two take turns; figures are medians over the turns. Without `--decode` pixels and tokens are made once and stay on
the device, so loading is not measured. With it each turn is an epoch of JPEG files of 640 x 480 pixels listed in a
table: open_clip reads it with its `CsvDataset`, which needs pandas, and its training transform; ours with the loader of
`pretrain`. On a CPU, read the CPU time, which a busy machine changes little. On a GPU peak memory and the share of the
card's bf16 peak are printed too; torch counts the work of a step, forward and backward.
"""

from __future__ import annotations

import argparse
import csv
import logging
import resource
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
from shard_loading import drawn_jpeg
from torch.utils.flop_counter import FlopCounterMode

from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.training.batches import GlobalBatches
from vladapt.core.training.kernels import fast_kernels
from vladapt.core.training.layers import TowerLayers
from vladapt.core.training.loading import BatchLoader
from vladapt.core.training.model import PairModel, dims_of
from vladapt.core.training.objective import build_objective
from vladapt.core.training.optimizer import build_optimizer
from vladapt.core.training.samples import Samples
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import PairSource
from vladapt.core.training.tower_outputs import Outputs
from vladapt.core.training.views import Views

BF16_PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}
SMALL = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 96, "layers": 6, "width": 256, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
}


CROP = (0.9, 1.0)
"""Share of a picture's area that open_clip's training transform keeps at least, and at most."""
STEPS = 8
"""Of a turn."""
GOAL = 0.8
"""Of open_clip's CPU time per step, decoding included."""


def our_steps(backbone, settings: TrainingSettings, batches) -> Callable[[], None]:
    """A call that trains ours on all that `batches` gives."""
    TowerLayers(backbone).set_trainable()
    objective = build_objective({"clip": 1.0}, dims_of(backbone, settings.batch_size))
    outputs = Outputs(backbone, objective.needs)
    model = PairModel(backbone, objective.to(backbone.device), outputs, settings).train()
    optimizer = build_optimizer(backbone, [objective, outputs], settings)

    def run() -> None:
        with fast_kernels(backbone.device.type == "cuda"):
            for batch in batches:
                model.train_step(batch, optimizer)

    return run


def their_steps(backbone, settings: TrainingSettings, batches) -> Callable[[], None]:
    """A call that trains on all that `batches` gives by open_clip's loop."""
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    logging.disable(logging.INFO)
    model = backbone.model.train().requires_grad_(True)
    model.output_dict = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=settings.betas, eps=settings.eps)
    args = Namespace(
        device=str(backbone.device), precision="amp_bf16" if settings.amp else "fp32", distill=False, accum_freq=1,
        skip_scheduler=True, horovod=False, grad_clip_norm=None, log_every_n_steps=10**9, world_size=1, rank=0,
        local_rank=0, log_local=False, batch_size=settings.batch_size, wandb=False,
    )  # fmt: skip
    data = {"train": SimpleNamespace(dataloader=batches, set_epoch=lambda epoch: None)}
    loss = ClipLoss()
    return lambda: train_one_epoch(model, data, loss, 0, optimizer, None, None, None, args)


class Given(list):
    """A batch that is made already, as often as a turn has steps, with what open_clip asks of a loader."""

    num_batches = STEPS

    def __init__(self, batch, size: int):
        super().__init__([batch] * STEPS)
        self.num_samples = STEPS * size


def given_batches(name: str, backbone, size: int) -> Given:
    side, device = backbone.image_size, backbone.device
    pixels = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    words = [f"a photo of thing number {i} among others" for i in range(size)]
    tokens = backbone.tokenize(words).to(device)
    return Given({"pixels": pixels, "tokens": tokens} if name == "vladapt" else (pixels, tokens), size)


def write_pictures(folder: Path, count: int) -> Path:
    """A table of JPEG files and captions, as open_clip reads it."""
    rng = torch.Generator().manual_seed(0)
    with (folder / "pairs.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["filepath", "title"])
        for i in range(count):
            path = folder / f"{i:05d}.jpg"
            path.write_bytes(drawn_jpeg(torch.randint(2**31, (), generator=rng).item(), (640, 480)))
            table.writerow([path, f"a photo of thing number {i} among others"])
    return folder / "pairs.tsv"


def decoded_batches(name: str, backbone, table: Path, size: int, workers: int):
    """An iterable that decodes the files anew each time."""
    if name == "vladapt":
        source = PairSource(read_pairs(table, val=0, test=0), CaptionSampler("first"))
        views, fields = {"light": Views(backbone).light(CROP)}, frozenset({"pixels", "tokens"})
        samples = Samples(source, fields, views, backbone.tokenize, 0, backbone.token_mask)
        batches = GlobalBatches(len(source), size, seed=0)
        return BatchLoader(samples, batches, workers, pin=False, sample_bytes=12 * backbone.image_size**2)
    from open_clip.transform import image_transform
    from open_clip_train.data import get_csv_dataset

    transform = image_transform(backbone.image_size, is_train=True, aug_cfg={"scale": CROP})
    args = Namespace(
        train_data=str(table), csv_img_key="filepath", csv_caption_key="title", csv_separator="\t", distributed=False,
        batch_size=size, workers=workers,
    )  # fmt: skip
    return get_csv_dataset(args, transform, is_train=True, tokenizer=backbone.tokenize).dataloader


def measured(run: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds of the clock and of the CPU, that of workers included."""
    _wait(device)
    began, used = time.perf_counter(), _cpu_seconds()
    run()
    _wait(device)
    return time.perf_counter() - began, _cpu_seconds() - used


def _cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_of_first(run: Callable[[], None], device: torch.device) -> float:
    """GiB that a first turn, which is not timed, takes of the GPU beside what lay there."""
    if device.type != "cuda":
        run()
        return float("nan")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def spec_of(arch: str, folder: Path) -> str:
    if arch != "small":
        return f"open_clip:{arch}@random"
    import json

    (folder / "small.json").write_text(json.dumps(SMALL))
    return f"open_clip:{folder}/small.json@random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="small", help="an architecture of open_clip")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--amp", choices=("bf16",), default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--decode", action="store_true", help="read JPEG files and captions too")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes")
    options = parser.parse_args()
    size = options.batch_size
    settings = TrainingSettings(batch_size=size, amp=options.amp, lr=1e-5, weight_decay=0.0)
    card = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"{options.arch}, batch {size}, {options.amp or 'float32'}, {card}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        table = write_pictures(folder, STEPS * size) if options.decode else None
        runs, peaks, flops = {}, {}, 0.0
        for name, steps in (("open_clip", their_steps), ("vladapt", our_steps)):
            backbone = load_backbone(spec_of(options.arch, folder), device=options.device)
            given = given_batches(name, backbone, size)
            batches = given if table is None else decoded_batches(name, backbone, table, size, options.workers)
            if name == "open_clip":  # whose passes are the library's own and run whole; ours leave padding out
                with FlopCounterMode(display=False) as counter:
                    steps(backbone, settings, given)()
                flops = counter.get_total_flops() / STEPS
            runs[name] = steps(backbone, settings, batches)
            peaks[name] = peak_of_first(runs[name], backbone.device)
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for turn in range(options.turns):
            for name in list(runs)[:: 1 if turn % 2 else -1]:
                turns[name].append(measured(runs[name], backbone.device))
    middle = {name: [median(column) / STEPS for column in zip(*rows)] for name, rows in turns.items()}
    for name, (clock, cpu) in middle.items():
        print(line_of(name, size, clock, cpu, peaks[name], flops, card))
    clock, cpu = (ours / theirs for ours, theirs in zip(middle["vladapt"], middle["open_clip"], strict=True))
    print(f"of open_clip's time: clock {clock:.2f}, CPU {cpu:.2f}", end="")
    print(f"; CPU at most {GOAL}: {'met' if cpu <= GOAL else 'missed'}" if options.decode else "")


def line_of(name: str, size: int, clock: float, cpu: float, peak: float, flops: float, card: str) -> str:
    line = f"{name:10s} {size / clock:8.1f} images/s, {1000 * clock:.0f} ms per step, {1000 * cpu:.0f} ms of CPU"
    top = next((value for key, value in BF16_PEAK_TFLOPS.items() if key in card), None)
    if peak == peak:
        line += f", {peak:.1f} GiB"
    return f"{line}, {flops / clock / 1e12 / top:.0%} of the bf16 peak" if top else line


if __name__ == "__main__":
    main()
