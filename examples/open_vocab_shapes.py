"""Learn to find shapes by their names, four of which are held out, and then look for your own names.

python examples/open_vocab_shapes.py [EPOCHS [IMAGE ...]]      (no arguments: 12 epochs on the drawn sample, minutes)
"""

import sys

import vladapt

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 12
result = vladapt.fit(
    domain="open-vocab",
    task="detection",
    data="sample",
    novel="red square, green triangle, blue star, yellow circle",
    adapter={"epochs": epochs},
)
scores = result.metrics["adapted"]
print(f"AP50 of names it was trained on {scores['base_AP50']:.1%}, of new names {scores['novel_AP50']:.1%}")
print(f"report: {result.run / 'report.html'}")

images = sys.argv[2:]
if images:
    found = vladapt.predict(result.run, images, classes="red square, purple circle, star", out="found")
    for row in found.rows():
        print(f"{row['id']}: {row['summary']}")
    print(f"{len(found.files)} files in found/")
