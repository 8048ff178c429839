"""Nothing is trained: MaskCLIP (arXiv 2112.01071): the value path of the last attention, compared with texts.

For any tower. A class called "background" gets what no other class is sure of; say how sure with prob_thd.
"""

vladapt = dict(domain="open-vocab", task="segmentation")
default_scope = "mmseg"

backbone = "embedded"
classes = ["a class", "another class"]

model = dict(type="vladapt.MaskCLIP", backbone=backbone, classes=classes)

test_pipeline = [dict(type="vladapt.LoadItemImage"), dict(type="vladapt.LoadSegmentation"), dict(type="PackSegInputs")]
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="vladapt.SegmentationDataset", path="sample", split="test", test_mode=True, pipeline=test_pipeline
    ),
)
test_evaluator = dict(type="vladapt.OpenVocabSegmentationMetric")
test_cfg = dict(type="TestLoop")
