"""LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection, 2024, arXiv 2406.03459."""

from __future__ import annotations

from ..boxes import BoxRanking
from ..family import Family, Rates
from ..weighing import of_detr, weighed


class Model(Family):
    """A plain vision transformer, a projector and a shallow decoder, trained with 13 groups of queries.

    Fine-tuned at 1e-4 and the encoder at 1.5e-4, weight decay 1e-4, gradients clipped at 0.1, averaged weights (0.997).
    The authors lower the rate layer by layer in the encoder (0.7 or 0.8); here all of it has one.

    transformers counts boxes over all processes itself.
    """

    model_class = "LwDetrForObjectDetection"
    processors = ("DeformableDetrImageProcessor",)
    head: tuple[str, ...] = (r"class_embed\.(weight|bias)", r"model\.enc_out_class_embed\.\d+\.(weight|bias)")
    ranking = BoxRanking()
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 1.5}}, ema=0.997)

    def weighted(self, outputs):
        """With the weights of the configuration; the error in the number of boxes is none of the loss."""
        config = self.stated
        return weighed(outputs.loss_dict, {**of_detr(config), "loss_ce": config.class_loss_coefficient})
