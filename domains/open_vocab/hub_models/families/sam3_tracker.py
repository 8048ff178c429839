"""The tracker of SAM 3: Segment Anything with Concepts, 2025, arXiv 2511.16719: it outlines boxes and points as SAM 2
does, on the encoder of SAM 3. Images alone, without its memory."""

from __future__ import annotations

from ..prompted import PyramidFamily

TRACKER = "tracker_config"


class Model(PyramidFamily):
    """SAM 3's encoder at 1008 pixels, the image squashed to a square."""

    model_class = "Sam3TrackerModel"
    processors = ("Sam3ImageProcessor",)
    why_not = "SAM 3's training code is under a licence of its own"

    def transformers_config(self):
        """Of the tracker, also where the checkpoint holds the whole SAM 3."""
        from transformers import Sam3TrackerConfig

        stated = self.config.get(TRACKER) or self.config
        return Sam3TrackerConfig.from_dict({key: value for key, value in stated.items() if key != "model_type"})
