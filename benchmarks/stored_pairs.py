"""What `pair-projection` brings on the packaged pairs of a real CLIP, over several splits.

    python benchmarks/stored_pairs.py [--splits 10] [--rates 1e-5,3e-5,1e-4,3e-4,1e-3] [--features FILE]

Each split of the images, 50 : 20 : 30 into train, val and test, is another `--split-seed`. In each split the val pairs
choose the rate, and with it the epoch; of equal ones the first rate. Test pairs choose nothing. R@1 in per cent, mean ±
standard deviation over splits; the difference is taken within each split. The splits share images: their spread is no
interval.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter

from vladapt import fit

DIRECTIONS = ("image_to_text", "text_to_image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--rates", default="1e-5,3e-5,1e-4,3e-4,1e-3", help="rates from which val pairs choose")
    parser.add_argument("--features", default="sample")
    asked = parser.parse_args()
    rates, chosen = [float(rate) for rate in asked.rates.split(",")], Counter[float]()
    rows: dict[str, list[tuple[float, float]]] = {direction: [] for direction in DIRECTIONS}
    for split in range(asked.splits):
        metrics, rate = _best_on_val(asked.features, split, rates)
        chosen[rate] += 1
        for direction, pairs in rows.items():
            before, after = (100 * metrics[side][f"{direction}/r1"] for side in ("zero_shot", "adapted"))
            pairs.append((before, after))
    print(f"| R@1, {asked.splits} splits | zero-shot | pair-projection | difference | splits with a gain |")
    print("|---|---:|---:|---:|---:|")
    for direction, pairs in rows.items():
        before, after = zip(*pairs)
        gains = [new - old for old, new in pairs]
        cells = [_spread(before), _spread(after), _spread(gains, sign="+"), f"{sum(gain > 0 for gain in gains)}"]
        print(f"| {direction.replace('_', ' ')} | {' | '.join(cells)} |")
    print("\nRates that val chose:", ", ".join(f"{rate:g} in {chosen[rate]}" for rate in rates))


def _best_on_val(features: str, split: int, rates: list[float]):
    """(metrics, rate) of the fit that does best on the val pairs."""
    fits = []
    for rate in rates:
        with tempfile.TemporaryDirectory() as out:
            done = fit(task="retrieval", features=features, split_seed=split, adapter={"lr": rate}, out=out)
        fits.append((done.report.val_score, done.metrics, rate))
    _, metrics, rate = max(fits, key=lambda each: each[0])
    return metrics, rate


def _spread(values, sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
