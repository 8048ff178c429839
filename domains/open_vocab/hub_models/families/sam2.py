"""SAM 2: Segment Anything in Images and Videos, 2024, arXiv 2408.00714. Images alone, without its memory."""

from __future__ import annotations

from ..prompted import PyramidFamily


class Model(PyramidFamily):
    """Hiera at 1024 pixels, the image squashed to a square; three maps for the mask decoder."""

    model_class = "Sam2Model"
    processors = ("Sam2ImageProcessor",)

    def transformers_config(self):
        """Of images, also where the checkpoint is one of videos."""
        from transformers import Sam2Config

        return Sam2Config.from_dict({key: value for key, value in self.config.items() if key != "model_type"})
