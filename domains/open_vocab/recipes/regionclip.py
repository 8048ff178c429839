"""Nothing is trained: RegionCLIP (arXiv 2112.09106): regions drawn at random get the name of the nearest class text.

With a detector's RPN in place of "random" (`proposals=dict(type=..., checkpoint=...)`) this is its zero-shot detection.
"""

vladapt = dict(domain="open-vocab", task="detection")
default_scope = "mmdet"

backbone = "embedded"
classes = ["a class", "another class"]

model = dict(
    type="vladapt.RegionCLIP",
    backbone=backbone,
    concepts=["object"],
    classes=classes,
    templates="imagenet-80",
    proposals="random",
    regions_proposed=300,
)

kept = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "facts", "instances")
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="vladapt.FitImage", scale=(512, 320)),
    dict(type="PackDetInputs", meta_keys=kept),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.DetectionDataset", path="sample", split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric")
test_cfg = dict(type="TestLoop")
