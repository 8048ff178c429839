"""Nothing is trained: SAM 3 (arXiv 2511.16719) finds and outlines what phrases name: --start hf:OWNER/NAME --epochs 0.

One pass of its detector for each name, over one embedding of the image. `predict --prompts FILE` gives examples to go
with a name, and boxes of what is not meant.
"""

vladapt = dict(domain="open-vocab", task="detection")
default_scope = "mmdet"

data = "sample"
model = dict(type="vladapt.SAM3", config=dict(), classes=["object"], processor=dict())

kept = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction", "facts", "instances")
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.ProcessorResize", processor=dict()),
    dict(type="PackDetInputs", meta_keys=kept),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.DetectionDataset", path=data, split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric")
test_cfg = dict(type="TestLoop")
