"""Training of towers and of small heads: batches, schedules, sources, settings, the loop."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "batches": "GlobalBatches epoch_batches",
        "class_scores": "CosineHead PixelScores",
        "epoch_views": "EpochViews views_of_training",
        "gated_attention": "GatedAttention",
        "layers": "TowerLayers truncated_starts",
        "lora": "LowRank",
        "parts": "TrainingTask TrainingResult",
        "ridge": "penalty_of_groups",
        "samples": "seed_of",
        "schedules": "LearningRates by_epoch cosine_rates",
        "settings": "TrainingSettings",
        "similarity_objective": "SimilarityObjective",
        "small_heads": "Epoch keep_best label_loss train_epochs training_features",
        "sources": "ImageSource LabelledSource Remembered TrainingSource",
        "tower_adapter": "ClassTowerAdapter TowerAdapter",
        "tower_passes": "MaskedWords image_features",
        "tower_weights": "BetweenWeights copy_of",
        "views": "Views",
    },
)
