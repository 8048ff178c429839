"""A Segment Anything model fine-tuned to outline boxes, by its id on the Hugging Face hub: --start hf:OWNER/NAME.

SAM (arXiv 2304.02643) and SAM 2 (arXiv 2408.00714): the mask decoder is trained on annotated boxes and outlines, by
binary cross-entropy and Dice; the image encoder is frozen, and computed once per image. With --lora-rank R matrices
beside the decoder's weights are trained. What it is trained on decides what an outline follows, not which things are
found: in `predict` boxes come from a detector (--masks-by RUN) or from the user (--prompts FILE), in `eval` from the
data.
"""

vladapt = dict(domain="open-vocab", task="detection", least_steps=200)
default_scope = "mmdet"

data = "sample"
epochs = 12
model = dict(type="vladapt.SAMSegmenter", config=dict(), classes=["object"], processor=dict())

kept = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction", "facts", "instances")
load = [dict(type="vladapt.LoadItemImage"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
prepare = [
    dict(type="vladapt.ProcessorResize", processor=dict()),
    dict(type="PackDetInputs", meta_keys=kept),
]
train_pipeline = [*load, *prepare]  # no image is changed, so that what its encoder gives is computed once
test_pipeline = [*load, *prepare]

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
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric", metric="segm")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(bypass_duplicate=True),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=epochs, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
