"""Per-Pixel Classification is Not All You Need for Semantic Segmentation (MaskFormer), 2021, arXiv 2107.06278."""

from __future__ import annotations

from ..family import Rates
from ..mask_queries import MaskQueries


class Model(MaskQueries):
    """DETR's decoder, whose queries give masks over a pyramid of pixels.

    Fine-tuned as its authors train Swin: AdamW at 6e-5 with decay 0.01, norms, embeddings of queries and tables of
    positions without, gradients clipped at 0.01, 1,500 steps of warm-up, and losses of all layers, which the
    checkpoints' configurations turn off.
    """

    model_class = "MaskFormerForInstanceSegmentation"
    processors = ("MaskFormerImageProcessor",)
    idle = ("model.pixel_level_module.encoder.model.layernorm",)
    rates = Rates(
        lr=6e-5,
        weight_decay=0.01,
        parts={name: {"decay_mult": 0.0} for name in ("queries_embedder", "relative_position_bias_table")},
        norm_decay=0.0,
        clip=0.01,
    )

    def settings(self):
        return {"use_auxiliary_loss": True}

    def inputs(self, pixels, pixel_mask, prompt=None):
        """With all layers of the decoder; without, its auxiliary losses end in an error of transformers."""
        return {"pixel_values": pixels, "pixel_mask": pixel_mask, "output_hidden_states": True}
