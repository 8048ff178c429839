"""A detector of transformers, by its id on the Hugging Face hub or from a folder: --start hf:OWNER/NAME.

Rates, weight decay, clipping and averaged weights are those with which the authors of its type fine-tune it
(docs/detectors.md); images are prepared by the checkpoint's own processor, and mirrored in training.
"""

vladapt = dict(domain="open-vocab", task="detection")
default_scope = "mmdet"

data = "sample"
epochs = 12
model = dict(type="vladapt.HFDetector", config=dict(), classes=["object"], processor=dict())

kept = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction", "facts", "instances")
resize = dict(type="vladapt.ProcessorResize", processor=dict())
train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    resize,
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs", meta_keys=kept),
]
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    resize,
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=kept),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="vladapt.DetectionDataset", path=data, split="train", pipeline=train_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.DetectionDataset", path=data, split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
