"""Make a table of image-text pairs out of class folders, for `vladapt pretrain`.

    python examples/pairs_from_classes.py ./scenes pairs.csv "a satellite photo of {}"
    python examples/pairs_from_classes.py ./grocery pairs.csv "a photo of {}" classes.json

The last argument, if given, is a JSON list of {"class": ..., "description": ...}: descriptions become further captions.
"""

import csv
import json
import sys
from pathlib import Path

folder, table, template, *descriptions = sys.argv[1:]
described = {}
if descriptions:
    described = {row["class"]: row["description"] for row in json.loads(Path(descriptions[0]).read_text("utf-8"))}

with open(table, "w", newline="", encoding="utf-8") as handle:
    rows = csv.writer(handle)
    rows.writerow(["image", "caption", "label"])
    for image in sorted(Path(folder).resolve().glob("*/*.*")):
        name = image.parent.name
        captions = [template.format(name.replace("-", " ").replace("_", " "))]
        captions += [described[name]] if name in described else []
        for caption in captions:
            rows.writerow([image, caption, name])
print(f"{table}: {sum(1 for _ in open(table, encoding='utf-8')) - 1} rows")
