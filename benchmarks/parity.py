"""How far our numbers are from outputs of the public reference code, as the Markdown of docs/parity.md.

    python benchmarks/parity.py --parity FOLDER > docs/parity.md

FOLDER holds the reference outputs (NAME.safetensors with NAME.json) in `dev/`, and the tiny CLIP beside it; by default
the folder `parity` beside the one that VLADAPT_DATA names. What is compared is in `parity_checks`, a file a group.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from parity_checks import (
    cache,
    caption_losses,
    crops,
    detectors,
    head,
    losses,
    prompt,
    segmentors,
    towers,
    transductive,
)
from parity_checks.fixtures import Check, Fixtures

METHODS = (head, cache, prompt, towers, transductive, crops)
OBJECTIVES = (losses, caption_losses)
OPEN_VOCABULARY = (detectors, segmentors)
ELSEWHERE = {
    "metrics_retrieval": "in the tests of `core/metrics`",
    "metrics_reid": "in the tests of `core/metrics`",
    "loss_cmpm_cmpc": "not at all, there is no such objective here",
}
TOP = """# Agreement with the public reference code

Made by `python benchmarks/parity.py --parity FOLDER > docs/parity.md`. Each value is compared as
|ours - reference| <= atol + rtol |reference| with the tolerance its fixture names, here never with a wider one;
100 % is the limit. Integers are to be equal. All in float32 on the CPU.

The largest error is that of whatever number a fixture holds (logits of the scale 100, percent, a precision matrix), and
need not be the one in the last column, which uses up the largest share of its tolerance. Where a fixture holds what
comes of a defect of the released code, the lists below the tables say so."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = Path(os.environ.get("VLADAPT_DATA", "../shared/data")).parent / "parity"
    parser.add_argument("--parity", type=Path, default=beside)
    folder = parser.parse_args().parity
    fixtures, checks = Fixtures(folder), []
    print(TOP)
    for title, files in (("Methods", METHODS), ("Objectives", OBJECTIVES), ("Open vocabulary", OPEN_VOCABULARY)):
        found = [check for file in files for group in file.GROUPS for check in group(fixtures)]
        checks += found
        print(f"\n## {title}\n\n{table(found)}\n\n### Where ours differs from the released code, on purpose\n")
        for name, text in sorted(pair for file in files for pair in file.DEVIATIONS.items()):
            print(f"* **{name}**: {text}.")
    print(f"\n## Fixtures without a row\n\n{without_a_row(folder, {check.fixture for check in checks})}")
    failed = [check for check in checks if not check.share <= 1]
    if failed:
        raise SystemExit(
            "\n".join(f"outside its tolerance: {c.method} {c.fixture} {c.what}: {c.error:.3g}" for c in failed)
        )


def table(checks: list[Check]) -> str:
    """One row a method and fixture: how many values were compared, and the worst errors."""
    rows: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        rows.setdefault((check.method, check.fixture), []).append(check)
    lines = [
        "| method | fixture | comparisons | largest error | of its tolerance | worst in |",
        "|---|---|---:|---:|---:|---|",
    ]
    for (method, fixture), group in rows.items():
        worst = max(group, key=lambda c: c.share)
        error = max(check.error for check in group)
        lines.append(f"| {method} | {fixture} | {len(group)} | {error:.1e} | {worst.share:.0%} | {worst.what} |")
    return "\n".join(lines)


def without_a_row(folder: Path, compared: set[str]) -> str:
    """Where else, or why not."""
    names = {path.stem for path in (folder / "dev").glob("*.safetensors")} - compared - {"_features"}
    lines = [f"* `{name}` is compared {where}." for name, where in ELSEWHERE.items() if name in names]
    later = ", ".join(sorted(f"`{name}`" for name in names - ELSEWHERE.keys()))
    return "\n".join([*lines, f"* Of methods that are not here: {later}."])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
