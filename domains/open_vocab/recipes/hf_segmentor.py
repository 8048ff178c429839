"""A segmentor of transformers, by its id on the Hugging Face hub or from a folder: --start hf:OWNER/NAME.

Rates, weight decay and clipping are those with which the authors of its type fine-tune it (docs/detectors.md), and so
are the pieces of images that it is trained on: half to twice the size of the checkpoint's own processor, cut to it.
"""

vladapt = dict(domain="open-vocab", task="segmentation", least_steps=240)
default_scope = "mmseg"

data = "sample"
epochs = 20
model = dict(type="vladapt.HFSegmentor", config=dict(), classes=["background", "object"], processor=dict())

train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.LoadSegmentation"),
    dict(type="vladapt.ProcessorCrop", processor=dict(), ratio_range=(0.5, 2.0), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.ProcessorResize", processor=dict()),
    dict(type="vladapt.LoadSegmentation"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="vladapt.SegmentationDataset", path=data, split="train", pipeline=train_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.SegmentationDataset", path=data, split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabSegmentationMetric")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
