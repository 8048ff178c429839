"""Train a backbone on image-text pairs, then find images with it.

python examples/pretrain_pairs.py pairs.csv models/mine embedded      (no arguments: generated drawings)
"""

import sys

import torch

import vladapt

data, out, start = sys.argv[1:] or ("sample", "models/first", "embedded")
settings = vladapt.TrainingSettings(epochs=2, batch_size=48, micro_batch_size=16, lr=3e-4, train_last=2, seed=1)
plan = vladapt.PretrainPlan(
    data=data, out=out, backbone=start, losses={"clip": 1.0, "rankclip": 0.5}, settings=settings
)
result = vladapt.pretrain(plan)

before, after = result.metrics["zero_shot"], result.metrics["adapted"]
print(f"text to image R@5: {before['text_to_image/r5']:.1%} before, {after['text_to_image/r5']:.1%} after")

backbone = vladapt.load_backbone(str(result.model))
pairs = vladapt.read_pairs(data).split("test")
images = [backbone.preprocess()(pairs.load_image(i)) for i in range(len(pairs))]
features = backbone.encode_image(torch.stack(images))
query = pairs[0].captions[0]
best = (backbone.encode_text([query]) @ features.T).argmax().item()
print(f"'{query}' finds {pairs[best].id}: {' / '.join(pairs[best].captions[:2])}")
