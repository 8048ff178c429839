"""Write a domain's drawn sample as a folder: python examples/sample_folder.py natural photos [24 a class or person]"""

import json
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

import vladapt

domain, folder, most = vladapt.load_domain(sys.argv[1]), Path(sys.argv[2]), int([*sys.argv, sys.maxsize][3])
data, count, people = domain.sample(domain.tasks[0]), Counter(), []
coco = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(data.class_names)]}
for number, item in enumerate(data.items):
    person, boxes = getattr(item.target, "identity", None), getattr(item.target, "boxes", ())
    names = [person] if person else [data.class_names[i] for i in item.target.classes()]
    if min(count[name] for name in names) >= most:
        continue
    count.update(names)
    stem = item.id.removeprefix("images/").removesuffix(".png").replace("/", "-")
    file, frames = folder / ("images" if person or boxes else names[0]) / f"{stem}.png", data.load(item)
    for n, frame in enumerate(frames if frames.ndim == 4 else [frames]):
        path = file.with_suffix("") / f"{n:03d}.png" if frames.ndim == 4 else file  # a clip is a folder of frames
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path)
    if person:
        row = {"image": f"images/{file.name}", "captions": item.target.captions(), "identity": person}
        people.append(json.dumps({**row, **item.target.about()}))
    coco["images"].append({"id": number, "file_name": file.name, "height": frames.shape[-3], "width": frames.shape[-2]})
    for (x, y, right, bottom), label in zip(boxes, item.target.labels if boxes else ()):
        box = {"id": len(coco["annotations"]), "image_id": number, "category_id": label, "iscrowd": 0}
        coco["annotations"].append({**box, "bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)})
for name, text in {"people.jsonl": "\n".join(people), "instances.json": boxes and json.dumps(coco)}.items():
    if text:
        (folder / name).write_text(text)
held = "clips" if frames.ndim == 4 else "images"
print(f"{len(coco['images'])} {held} of {len(count)} {'people' if people else 'classes'} in {folder}/")
