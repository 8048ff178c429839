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

images = sorted(Path(folder).glob("*/*.*"))
with open(table, "w", newline="", encoding="utf-8") as handle:
    rows = csv.writer(handle)
    rows.writerow(["image", "caption", "label"])
    for image in images:
        name = image.parent.name
        rows.writerow([image.relative_to(folder), template.format(name.replace("-", " ").replace("_", " ")), name])
        if name in described:
            rows.writerow([image.relative_to(folder), described[name], name])
print(f"{table}: {len(images)} images. Next: vladapt pretrain --data {table} --set data.root={folder} --out MODEL")
