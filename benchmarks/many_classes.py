"""Fits of methods in closed form on many classes: CPU seconds on one thread, and by how much memory grows.

    python benchmarks/many_classes.py [CLASSES] [SHOTS] [WIDTH] [METHOD ...]

Features are drawn around one centre per class (1,000 classes, 16 shots, 512 wide where nothing is given). Each method
is fitted in a process of its own, without val, and its logits of 2,000 further images are scored. The public peer is
scikit-learn's KernelRidge with the kernel of `proker` at 16 shots, in double precision.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import torch
import torch.nn.functional as F
from usage import print_help

import vladapt
from vladapt import FeatureSet, TextClassifier

METHODS = ("nearest-mean", "gda", "ridge", "tip-adapter", "proker", "KernelRidge")
TESTED = 2000


def problem(classes: int, shots: int, width: int) -> tuple[FeatureSet, FeatureSet, TextClassifier]:
    generator = torch.Generator().manual_seed(0)
    common, names = torch.randn(width, generator=generator), [f"class {n}" for n in range(classes)]
    centres = 0.65 * torch.randn(classes, width, generator=generator) + common

    def around(labels, noise):
        rows = centres[labels] + noise * torch.randn(len(labels), width, generator=generator)
        return F.normalize(rows, dim=1)

    labels = torch.arange(classes).repeat_interleave(shots)
    tested = torch.randint(classes, (TESTED,), generator=generator)
    support = FeatureSet(around(labels, 2.3), labels=labels, class_names=names)
    test = FeatureSet(around(tested, 2.3), labels=tested, class_names=names)
    return support, test, TextClassifier(around(torch.arange(classes), 1.7), class_names=names)


def logits(method: str, support: FeatureSet, test: FeatureSet, text: TextClassifier) -> torch.Tensor:
    if method == "KernelRidge":
        from sklearn.kernel_ridge import KernelRidge

        peer = KernelRidge(alpha=0.1, kernel="precomputed")
        kernel = lambda rows: torch.exp(-1.7 * (1 - rows @ support.unit.T)).double().numpy()  # noqa: E731
        peer.fit(kernel(support.unit), (support.one_hot() - support.unit @ text.weights.T).numpy())
        return test.unit @ text.weights.T + torch.from_numpy(0.1 * peer.predict(kernel(test.unit)))
    adapter = vladapt.build_adapter(method)
    adapter.fit(support, text)
    return adapter.logits(test)


def measure(method: str, sizes: list[int]) -> None:
    torch.set_num_threads(1)
    support, test, text = problem(*sizes)
    vladapt.build_adapter("nearest-mean").fit(support.select(torch.arange(2 * sizes[1])), text)  # imports
    before, peak = os.times(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    right = (logits(method, support, test, text).argmax(dim=1) == test.labels).float().mean()
    after, grown = os.times(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    seconds = after.user + after.system - before.user - before.system
    print(f"{method:14}{seconds:8.1f} s{grown / 1024:10,.0f} MB{right:9.1%}", flush=True)


def main() -> None:
    words = sys.argv[1:]
    sizes = [int(word) for word in words[:3]] + [1000, 16, 512][len(words[:3]) :]
    print("{:,} classes, {} shots, width {}: CPU seconds, growth of memory, accuracy".format(*sizes), flush=True)
    for method in words[3:] or METHODS:
        alone = ("-c", f"import many_classes as m; m.measure({method!r}, {sizes})")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
        subprocess.run([sys.executable, *alone], check=True, env=environment)


if __name__ == "__main__":
    print_help(__doc__)
    main()
