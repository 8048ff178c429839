"""Segment Anything, 2023, arXiv 2304.02643."""

from __future__ import annotations

from ..prompted import PromptedFamily


class Model(PromptedFamily):
    """A vision transformer at 1024 pixels on the longer side, padded to a square; one map for the mask decoder."""

    model_class = "SamModel"
    processors = ("SamImageProcessor",)

    def features(self, model, pixels):
        return (model.vision_encoder(pixels).last_hidden_state,)

    def embeddings(self, model, features):
        return features[0]
