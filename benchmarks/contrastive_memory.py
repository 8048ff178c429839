"""Memory and time of the contrastive losses, forward and backward, compared with open_clip's.

    python benchmarks/contrastive_memory.py

Each row is measured in its own process: what one step adds to the peak of resident memory, beyond the features and the
imports; then the fastest of several steps, ours and open_clip's in turn, since others may use the machine. CPU time
over all threads shows what a step costs even then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from usage import print_help

WIDTH, ROUNDS = 512, 3


def measure(whose: str, name: str, count: int, steps: int) -> dict[str, float]:
    """Added peak in MiB, best seconds of the clock and of the CPU, and the loss."""
    step = step_of(whose, name)
    step(*features(64))
    given = features(count)
    before = resident("VmRSS")
    clock, cpu, peak = [], [], 0.0
    for i in range(steps):
        started = time.perf_counter(), time.process_time()
        loss = step(*given)
        clock.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
        if i == 0:
            peak = resident("VmHWM") - before
    return {"mib": peak, "clock": min(clock), "cpu": min(cpu), "loss": loss}


def resident(name: str) -> float:
    """Resident memory in MiB: "VmRSS" now, "VmHWM" at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def features(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    text = F.normalize(image + 0.1 * torch.randn(count, WIDTH, generator=generator), dim=1)
    return [given.requires_grad_() for given in (image, text, torch.tensor(14.3), torch.tensor(-10.0))]


def step_of(whose: str, name: str):
    """Forward and backward on image, text, scale and bias; returns the loss."""
    if whose == "open_clip":
        from open_clip.loss import ClipLoss, SigLipLoss

        theirs = {"clip": ClipLoss(), "siglip": SigLipLoss()}[name]

        def value(image, text, scale, bias):
            return theirs(image, text, scale, bias) if name == "siglip" else theirs(image, text, scale)
    else:
        from vladapt import build_loss

        ours, names = build_loss(name), ("image_features", "text_features", "logit_scale", "logit_bias")

        def value(*given):
            return ours(dict(zip(names, given)))["loss"]

    def step(*given):
        for one in given:
            one.grad = None
        loss = value(*given)
        loss.backward()
        return loss.item()

    return step


def same_loss(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) < 1e-5 * theirs


def in_a_process(whose: str, name: str, count: int, steps: int) -> dict[str, float]:
    command = (sys.executable, __file__, whose, name, str(count), str(steps))
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def best(found: list[dict[str, float]]) -> dict[str, float]:
    return {**found[0], **{kind: min(one[kind] for one in found) for kind in ("clock", "cpu")}}


def main() -> None:
    print(f"D {WIDTH}, {torch.get_num_threads()} threads, forward and backward; peak memory added, clock, CPU")
    for name in ("clip", "siglip"):
        rounds = [[in_a_process(whose, name, 8192, 3) for whose in ("open_clip", "ours")] for _ in range(ROUNDS)]
        theirs, ours = (best(list(found)) for found in zip(*rounds))
        large = in_a_process("ours", name, 32768, 1)
        same = same_loss(ours["loss"], theirs["loss"])
        rows = [("open_clip", 8192, theirs), ("vladapt", 8192, ours), ("vladapt", 32768, large)]
        for whose, count, found in rows:
            times = f"{found['clock']:7.2f} s {found['cpu']:7.2f} s"
            print(f"{name:7}{whose:10} N {count:6,}  {found['mib']:6,.0f} MiB {times}")
        ratios = ", ".join(f"{kind} {ours[kind] / theirs[kind]:.2f}" for kind in ("clock", "cpu"))
        print(f"{name:7}same loss: {same}; of open_clip's time at N 8,192: {ratios}")


if __name__ == "__main__":
    print_help(__doc__)
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
