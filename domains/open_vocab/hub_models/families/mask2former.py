"""Masked-attention Mask Transformer for Universal Image Segmentation (Mask2Former), 2022, arXiv 2112.01527."""

from __future__ import annotations

from ..family import Rates
from ..mask_queries import MaskQueries

EMBEDDINGS = ("queries_embedder", "queries_features", "level_embed")


class Model(MaskQueries):
    """Queries that attend within the masks of the layer before, over a deformable pixel decoder.

    Fine-tuned as published: AdamW at 1e-4 with decay 0.05, the backbone at a tenth, norms, embeddings and tables of
    positions without decay, gradients clipped at 0.01, and losses of all layers.
    """

    model_class = "Mask2FormerForUniversalSegmentation"
    processors = ("Mask2FormerImageProcessor",)
    idle = ("model.pixel_level_module.encoder.swin.layernorm",)
    rates = Rates(
        lr=1e-4,
        weight_decay=0.05,
        parts={
            "pixel_level_module.encoder": {"lr_mult": 0.1},
            "relative_position_bias_table": {"lr_mult": 0.1, "decay_mult": 0.0},
            **{f"transformer_module.{name}": {"decay_mult": 0.0} for name in EMBEDDINGS},
        },
        norm_decay=0.0,
        clip=0.01,
    )

    @property
    def raster(self):
        """What its processor enlarges masks to, whatever the image."""
        return 384, 384

    def inputs(self, pixels, pixel_mask, prompt=None):
        return {"pixel_values": pixels}  # the model takes a mask of pixels and makes no use of it
