"""Adapt to a folder of class folders, see the gain, classify an image.

python examples/few_shot_folder.py ./xrays scan.png      (no arguments: the medical sample set)
"""

import sys

import vladapt

data = sys.argv[1] if len(sys.argv) > 1 else "sample"
result = vladapt.fit(domain="medical", data=data, adapter="tip-adapter", shots=16, seed=1)

before, after = result.metrics["zero_shot"], result.metrics["adapted"]
low, high = result.metrics["intervals"]["adapted"]
print(f"zero-shot {before['accuracy']:.1%}, adapted {after['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})")
print(f"report: {result.run / 'report.html'}")

for row in vladapt.predict(result.run, sys.argv[2:]).rows() if len(sys.argv) > 2 else []:
    print(f"{row['id']}: {row['label']} ({row['confidence']:.1%})")
