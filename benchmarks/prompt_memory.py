"""Peak memory and time of prompt learning on many classes, through a text tower of ViT-B/16's size.

    python benchmarks/prompt_memory.py

Each row is a fit of two steps in its own process: the peak of its resident memory, including imports and both towers;
the seconds of one training step; and those of the rest, which is tokenising the names and encoding all classes once at
the end. CPU time over all threads shows the cost even where others use the machine. Weights and image features are
random, which changes neither memory nor time. Names take one to three tokens, some six, like those of ImageNet. The
last line is the difference between the contexts learned with and without checkpointing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from usage import print_help

ARCHITECTURE, BATCH, STEPS = "open_clip:ViT-B-16@random", 32, 2
ROWS = (
    ("coop", 1_000, {}),
    ("coop", 1_000, {"checkpointing": True}),
    ("pomp", 20_000, {"checkpointing": True}),
)
WORDS = ("red", "old", "small", "river", "stone", "glass", "night", "paper", "iron", "field", "garden", "coffee")


def measure(name: str, classes: int, options: dict, architecture: str = ARCHITECTURE) -> dict:
    """Peak GB, seconds of a step and of the rest on the clock and of the CPU, and the context learned."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import vladapt

    backbone = vladapt.load_backbone(architecture, device="cpu")
    generator = torch.Generator().manual_seed(0)
    names = tuple(class_name(i) for i in range(classes))
    width = backbone.embed_dim
    images = torch.randn(STEPS * BATCH, width, generator=generator)
    support = vladapt.FeatureSet(images, torch.randint(classes, (len(images),), generator=generator), names)
    classifier = vladapt.TextClassifier(torch.randn(classes, width, generator=generator), class_names=names)
    adapter = vladapt.build_adapter(name, epochs=1, warmup=None, batch_size=BATCH, **options)
    ends: list[torch.Tensor] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(seconds()))
    started = seconds()
    adapter.fit(support, classifier, backbone=backbone)
    hook.remove()
    step = ends[1] - ends[0]
    rest = seconds() - started - STEPS * step
    return {"gb": peak_gb(), "step": step.tolist(), "rest": rest.tolist(), "ctx": adapter.ctx.flatten().tolist()}


def seconds() -> torch.Tensor:
    """Of the clock and of the CPU."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def class_name(index: int) -> str:
    """One to three words, of every fiftieth class six."""
    count = 6 if index % 50 == 0 else 1 + index % 3
    return " ".join(WORDS[(7 * index + 5 * k) % len(WORDS)] for k in range(count))


def peak_gb() -> float:
    """Resident memory at its peak, in units of 10^9 bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def contexts_apart(kept: dict, checkpointed: dict) -> float:
    """The largest difference of the contexts learned in two fits."""
    return (torch.tensor(kept["ctx"]) - torch.tensor(checkpointed["ctx"])).abs().max().item()


def in_a_process(name: str, classes: int, options: dict) -> dict:
    command = (sys.executable, __file__, name, str(classes), json.dumps(options))
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    print(f"{ARCHITECTURE}, batch {BATCH}, {torch.get_num_threads()} threads; peak memory, a step, the rest of the fit")
    found = []
    for name, classes, options in ROWS:
        row = in_a_process(name, classes, options)
        found.append(row)
        way = "checkpointing" if options.get("checkpointing") else "all kept"
        times = ", ".join(f"{part} {row[part][0]:6.1f} s, CPU {row[part][1]:6.1f} s" for part in ("step", "rest"))
        print(f"{name:5} C {classes:6,}  {way:14} {row['gb']:5.2f} GB  {times}", flush=True)
    print(f"contexts of coop, with and without checkpointing: {contexts_apart(*found[:2]):.1e} apart at most")


if __name__ == "__main__":
    print_help(__doc__)
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        main()
