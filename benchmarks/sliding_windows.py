"""Sliding windows over an image, in batches and all in one pass, compared with mmsegmentation's, one at a time.

    python benchmarks/sliding_windows.py

SCLIP on a tower of ViT-B/16's size (with random weights, which does not change the timing) reads an image of 336 x 448
in windows of 224 every 112 pixels; MaskCLIP on the embedded backbone reads it in the same windows, and whole, the
default for convolutions. mmsegmentation's `EncoderDecoder.slide_inference` gets the same function from a window to
logits; its result is compared with ours in the same run. Then comes the cost of words, which is once per vocabulary,
not per image.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from usage import print_help

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.domains.open_vocab.modules.segmentors.training_free import TrainingFreeSegmentor, resize_to
from vladapt.domains.open_vocab.modules.segmentors.windows import place_windows, slide
from vladapt.registry import MODELS

SIZE, CROP, STRIDE = (336, 448), 224, 112
BATCHES = (1, 4, 8)
VIT = "open_clip:ViT-B-16@random:0"
THREADS = int(os.environ.get("THREADS", 1))


def build(method: str, backbone: str, words: int, **options) -> TrainingFreeSegmentor:
    names = [f"thing number {index}" for index in range(words)]
    return MODELS.build({"type": f"vladapt.{method}", "backbone": backbone, "classes": names, **options})


def mmseg_slide(model: TrainingFreeSegmentor, images: torch.Tensor) -> torch.Tensor:
    """mmsegmentation's loop over windows, given the model's logits of each."""
    from mmseg.models.segmentors import EncoderDecoder

    around = SimpleNamespace(
        test_cfg=SimpleNamespace(stride=(STRIDE, STRIDE), crop_size=(CROP, CROP)),
        out_channels=len(model.queries()),
        encode_decode=lambda crop, metas: resize_to(model.query_logits(crop), tuple(crop.shape[-2:])),
    )
    return EncoderDecoder.slide_inference(around, images, [{}])


def our_slide(model: TrainingFreeSegmentor, images: torch.Tensor, per_batch: int) -> torch.Tensor:
    return torch.stack(slide(list(images), model.query_logits, crop=CROP, stride=STRIDE, per_batch=per_batch))


def in_one_pass(model: TrainingFreeSegmentor, images: torch.Tensor) -> list[torch.Tensor]:
    return model.image_logits([model.resized(image) for image in images], [SIZE] * len(images))


def timed(runs: dict[str, Callable[[], object]], repeats: int = 3) -> dict[str, tuple[float, float]]:
    """Medians of wall and CPU seconds of each, taken in turn: what else the machine does slows all of them alike."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started, used = time.perf_counter(), time.process_time()
            run()
            if repeat:  # the first is the warm-up
                found[name].append((time.perf_counter() - started, time.process_time() - used))
    return {name: tuple(statistics.median(column) for column in zip(*times)) for name, times in found.items()}


def logits_apart(model: TrainingFreeSegmentor, images: torch.Tensor) -> float:
    """The largest difference of a logit from mmsegmentation's, over all sizes of batches."""
    theirs = mmseg_slide(model, images)
    return max((our_slide(model, images, per_batch) - theirs).abs().max().item() for per_batch in BATCHES)


@torch.no_grad()
def compare(method: str, backbone: str, words: int) -> None:
    model = build(method, backbone, words, templates="photo", short_side=None)
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    runs = {"mmseg, one at a time": lambda: mmseg_slide(model, images)}
    for per_batch in BATCHES:
        runs[f"vladapt, {per_batch} at a time"] = lambda per_batch=per_batch: our_slide(model, images, per_batch)
    apart = logits_apart(model, images)
    if not model.crop:
        runs["vladapt, one pass"] = lambda: in_one_pass(model, images)
    windows = len(place_windows(0, SIZE, CROP, STRIDE))
    print(f"{method}, {backbone}, {words} words, {windows} windows; logits apart by {apart:.0e} at most")
    found = timed(runs)
    base = found["mmseg, one at a time"]
    for name, (clock, cpu) in found.items():
        print(
            f"  {name:21} {clock:6.2f} s {cpu:6.2f} s CPU  {base[0] / clock:4.1f} x {base[1] / cpu:4.1f} x", flush=True
        )


def words_once(backbone: str, words: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLADAPT_CACHE"] = folder
        for what in ("new", "known"):
            used = time.process_time()
            queries = build("MaskCLIP", backbone, words).queries
            seconds = time.process_time() - used
            print(f"{len(queries())} {what} words x 80 templates, {backbone}: {seconds:.2f} s CPU", flush=True)


def main() -> None:
    torch.set_num_threads(THREADS)
    print(f"threads {THREADS}, image {SIZE[0]} x {SIZE[1]}, windows of {CROP} every {STRIDE}")
    compare("SCLIP", VIT, 21)
    compare("SCLIP", VIT, 171)
    compare("MaskCLIP", "embedded", 171)
    words_once("embedded", 171)


if __name__ == "__main__":
    print_help(__doc__)
    main()
