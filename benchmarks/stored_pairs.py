"""What `pair-projection` brings on the packaged pairs of a real CLIP, over several splits.

    python benchmarks/stored_pairs.py [--splits 10] [--features FILE]

Each split of the images, 50 : 20 : 30 into train, val and test, is another `--split-seed`. R@1 in per cent, mean ±
standard deviation over splits; the difference is taken within each split.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile

from vladapt import fit

DIRECTIONS = ("image_to_text", "text_to_image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--features", default="sample")
    asked = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {direction: [] for direction in DIRECTIONS}
    for split in range(asked.splits):
        with tempfile.TemporaryDirectory() as out:
            done = fit(task="retrieval", features=asked.features, split_seed=split, out=out)
        for direction, pairs in rows.items():
            before, after = (100 * done.metrics[side][f"{direction}/r1"] for side in ("zero_shot", "adapted"))
            pairs.append((before, after))
    print(f"| R@1, {asked.splits} splits | zero-shot | pair-projection | difference | splits with a gain |")
    print("|---|---:|---:|---:|---:|")
    for direction, pairs in rows.items():
        before, after = zip(*pairs)
        gains = [new - old for old, new in pairs]
        cells = [_spread(before), _spread(after), _spread(gains, sign="+"), f"{sum(gain > 0 for gain in gains)}"]
        print(f"| {direction.replace('_', ' ')} | {' | '.join(cells)} |")


def _spread(values, sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
