"""How long a command takes to start: `import vladapt`, `vladapt --help`, and `tip-adapter` on stored features.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

from timing import median_seconds
from usage import print_help

IN_PROCESS = """
import time, torch
import vladapt
from vladapt import FeatureSet, TextClassifier
torch.manual_seed(0)
centres = torch.randn(20, 512)
labels = torch.arange(20).repeat_interleave(16)
support = FeatureSet(centres[labels] + torch.randn(320, 512), labels=labels)
val = FeatureSet(centres[labels] + torch.randn(320, 512), labels=labels)
adapter = vladapt.build_adapter("tip-adapter")
classifier = TextClassifier(centres)
started = time.perf_counter()
adapter.fit(support, classifier, val=val)
print(time.perf_counter() - started)
"""


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout


def main() -> None:
    python = sys.executable
    cli = (python, "-m", "vladapt")
    bare = median_seconds(lambda: run(python, "-c", "pass"))
    print(f"python -c pass      {bare:6.2f} s")
    print(f"import vladapt      {median_seconds(lambda: run(python, '-c', 'import vladapt')):6.2f} s")
    print(f"vladapt --help      {median_seconds(lambda: run(*cli, '--help')):6.2f} s")
    print(f"tip-adapter, fit of 20 classes x 16 shots after import: {float(run(python, '-c', IN_PROCESS)):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        command = (*cli, "fit", "--domain", "medical", "--adapter", "tip-adapter", "--out", f"{folder}/runs", "--json")
        first = time.perf_counter()
        run(*command, VLADAPT_CACHE=f"{folder}/cache")
        first = time.perf_counter() - first
        second = time.perf_counter()
        summary = json.loads(run(*command, VLADAPT_CACHE=f"{folder}/cache"))
        second = time.perf_counter() - second
    print(f"vladapt fit --domain medical, nothing stored:   {first:6.2f} s wall")
    print(
        f"vladapt fit --domain medical, features stored:  {second:6.2f} s wall, of it {summary['seconds']:.2f} s in fit"
    )


if __name__ == "__main__":
    print_help(__doc__)
    main()
