"""The nouns all parts share: Adapter, Backbone, Domain, FeatureSet, TextClassifier, Loss."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adapter": "Adapter FitReport",
        "backbone": "Backbone Block CAPABILITIES normalized",
        "bags": "Bags Tiles",
        "bench": "BenchScore BenchSet BenchTowers",
        "corruption": "Corruption",
        "curator": "CAPTION_FEATURES Curator Decision IMAGE_FEATURES PairTable Survey TEXT",
        "domain": "Domain Evaluation Finding MaskScorer Metric NumberReading OwnFiles Reading Scorer",
        "features": "Batch Detection FeatureSet PRE_PROJECTION PROJECTED TextClassifier",
        "images": "Band CropTransform ImageSize InputChannels TrainingImages TrainingPlace height_and_width",
        "items": "Boxes Captions ClassLabel Columns Decoded DomainData Identity Item Label Labels Mask Number "
        "Question Questions Target check_items spoken",
        "judgement": "Evaluated JudgedClassifier JudgedFit JudgedTowers Judgement Place Record Scores",
        "loss": "Extract Loss RowLoss",
        "options": "as_text option require settle whole_number",
        "output_kind": "HeatMap LabelMap OutputKind",
        "outputs": "Output",
        "pair_head": "PairHead PairParts",
        "part_views": "PartViews",
        "parts": "ClassWeighting Part RandomCrops StoredViews Ties TrainingViews has part_of",
        "prepared": "PreparedData",
        "recipe": "Recipe SAMPLE",
        "resources": "FurtherBackbone NEEDS PatchTokens PreProjection TextPool",
        "run_info": "RunInfo",
        "selector": "Pool Selector",
        "task": "Axes Contest FitResult Task",
        "unequal_parts": "UnequalParts",
        "use": "ExportWishes Exported Use",
    },
)
