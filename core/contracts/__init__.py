"""The nouns all parts share: Adapter, Backbone, Domain, FeatureSet, TextClassifier, Loss."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adapter": "Adapter FitReport require",
        "backbone": "Backbone Block CAPABILITIES blank_image normalized",
        "by_example": "ByExample",
        "channels": "InputChannels STARTS ZERO",
        "choices": "ClassWeighted FewOrZeroShot FreshViews PLATEAU PUBLISHED PooledViews Searched Tied ZERO_SHOT "
        "published_options",
        "domain": "Decoded Domain DomainData Evaluation Finding Item MAX_PIXELS NO_PRESET READ_BY Reading SPLITS WHOLE "
        "check_items",
        "exported": "ExportWishes Exported",
        "evaluated": "Evaluated",
        "features": "Batch FeatureSet PRE_PROJECTION PROJECTED TextClassifier",
        "image_size": "ImageSize height_and_width",
        "images": "CropTransform LogPlace TrainingImages TrainingPlace",
        "judgement": "JudgedClassifier JudgedFit Judgement Place Record Scores",
        "loss": "Extract Loss RowLoss",
        "metric": "Metric",
        "options": "as_text option settle whole_number",
        "outputs": "MASKED_SHARE Output",
        "own_files": "OwnFiles Scorer",
        "part_views": "PartViews",
        "pictures": "STILL as_still",
        "prepared": "PreparedData",
        "questions": "Question Questions",
        "recipe": "Recipe SAMPLE",
        "resources": "Detection FurtherBackbone NEEDS PatchTokens PreProjection TextPool",
        "run_info": "RunInfo",
        "selector": "Pool Selector",
        "targets": "Boxes Captions Identity Label Labels Mask Target",
        "task": "Axes Contest FitResult Task Use",
    },
)
