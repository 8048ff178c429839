"""TransCLIP compared with a plain dense implementation of the same formulas, and its memory at 50,000 images.

    python benchmarks/transclip.py

The plain implementation holds the (N, N) similarities and affinities, multiplies them with the assignments, and
computes the variance class by class from (N, D) differences, as the formulas are written. Each row has its own process:
wall-clock and CPU seconds of one fit with its predictions (CPU seconds are more reliable where others use the machine),
and the peak of resident memory, including imports and features.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from usage import print_help

CLASSES, WIDTH, NEIGHBOURS, TEMPERATURE = 100, 512, 3, 50.0


def problem(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit image features (N, D) in clusters, unit text (C, D) off their centres, labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = centres[labels] + torch.randn(count, WIDTH, generator=generator) / 20
    text = 0.15 * centres + torch.randn(CLASSES, WIDTH, generator=generator) / WIDTH**0.5
    return F.normalize(images, dim=1), F.normalize(text, dim=1), labels


def plain(images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(N, C) assignments of zero-shot TransCLIP."""
    text_prediction = (100 * images @ text.T).softmax(dim=1)
    similarity = images @ images.T  # (N, N)
    similarity.fill_diagonal_(-1)
    cosines, index = similarity.topk(NEIGHBOURS, dim=1)
    affinity = torch.zeros_like(similarity).scatter_(1, index, cosines)
    affinity = affinity + affinity.T
    z, variance = text_prediction, torch.full((WIDTH,), 1 / WIDTH)
    top = z.topk(8, dim=0).indices
    means = torch.stack([(z[rows, k, None] * images[rows]).mean(dim=0) for k, rows in enumerate(top.T)])
    means = F.normalize(means, dim=1)

    def assigned(z):
        likelihood = [-0.5 * ((images - mean) ** 2 / variance).sum(dim=1) for mean in means]
        likelihood = torch.stack(likelihood, dim=1)  # (N, C)
        for _ in range(5):
            logits = likelihood / TEMPERATURE + affinity @ z / (2 * NEIGHBOURS)
            z = text_prediction * torch.exp(logits - logits.amax(dim=1, keepdim=True))
            z = z / z.sum(dim=1, keepdim=True)
        return z

    for _ in range(10):
        z = assigned(z)
        means = F.normalize(z.T @ images / z.sum(dim=0)[:, None], dim=1)
        variance = sum((z[:, k, None] * (images - mean) ** 2).sum(dim=0) for k, mean in enumerate(means)) / len(images)
    return assigned(z)


def ours(images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(N, C) log assignments."""
    import vladapt

    unlabeled = vladapt.FeatureSet(images)
    adapter = vladapt.build_adapter("transclip", mode="zero-shot")
    adapter.fit(unlabeled, vladapt.TextClassifier(text), unlabeled=unlabeled)
    return adapter.logits(images)


def measure(whose: str, count: int) -> dict:
    """Seconds of clock and CPU, peak memory in MiB, accuracies in percent, and the answers."""
    images, text, labels = problem(count)
    run = {"plain": plain, "vladapt": ours}[whose]
    run(images[:500], text)
    started = time.perf_counter(), time.process_time()
    answers = run(images, text).argmax(dim=1)
    clock, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = (images @ text.T).argmax(dim=1)
    accuracies = [100 * float((guess == labels).double().mean()) for guess in (before, answers)]
    return {"clock": clock, "cpu": cpu, "mib": peak, "accuracies": accuracies, "answers": answers.tolist()}


def same_answers(theirs: dict, found: dict) -> float:
    """The share of images that both answer in the same way."""
    return sum(a == b for a, b in zip(theirs["answers"], found["answers"], strict=True)) / len(found["answers"])


def in_a_process(whose: str, count: int) -> dict:
    command = (sys.executable, __file__, whose, str(count))
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    print(f"C {CLASSES}, D {WIDTH}, zero-shot mode, {torch.get_num_threads()} threads; clock, CPU, peak memory in all")
    theirs, found, large = (in_a_process(*row) for row in (("plain", 10_000), ("vladapt", 10_000), ("vladapt", 50_000)))
    for whose, count, row in (("plain", 10_000, theirs), ("vladapt", 10_000, found), ("vladapt", 50_000, large)):
        times = f"{row['clock']:7.2f} s {row['cpu']:7.2f} s"
        accuracies = " -> ".join(f"{accuracy:.2f}" for accuracy in row["accuracies"])
        print(f"{whose:8} N {count:6,}  {times}  {row['mib']:6,.0f} MiB  accuracy {accuracies}")
    same = same_answers(theirs, found)
    ratios = ", ".join(f"{kind} {theirs[kind] / found[kind]:.1f} x" for kind in ("clock", "cpu"))
    print(f"same answers: {100 * same:.2f} %; ratio at N 10,000: {ratios}")


if __name__ == "__main__":
    print_help(__doc__)
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
