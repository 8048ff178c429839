"""The names under which losses find what towers, views and data give: one row per sample unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """What a name in `out` stands for.

    Args:
        meaning: in words, for messages.
        shape: symbols of its axes: B batch, D embed_dim, W image_width, T text_width, P patches, L text tokens,
            N sub-captions of an image, V local views, E findings,
            C classes. What does not begin with B is one value for the whole batch.
        kind: "unit" (rows of length 1), "raw", "mask" (bool), "positive" (one number above 0), "number", "class",
            "row" (of the training set), "token" (-100 where nothing is asked) or "finding" (-1, 0, 1).
        column: of an output that a loss brings: the column of the data that it is made of.
        tower: what encodes the column: "text" its texts, "image" the files it names; "" takes its numbers as they are,
            NaN (a class: -1) where a row has none.
        fields: of an output that a loss brings and makes itself: what of the batch it is made of ("pixels", "tokens").
    """

    meaning: str
    shape: tuple[str, ...] = ("B", "D")
    kind: str = "unit"
    column: str = ""
    tower: str = ""
    fields: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether it is one value for the whole batch, the same on all ranks."""
        return self.shape[:1] != ("B",)

    @property
    def column_kind(self) -> str:
        """What its column holds: "text", "image" or "numbers"."""
        return self.tower or "numbers"


OUTPUTS: dict[str, Output] = {
    # towers on the image and its caption
    "image_features": Output("image features"),
    "text_features": Output("text features of the caption"),
    "image_embedding": Output("image features, not normalised to length 1", kind="raw"),
    "text_embedding": Output("text features of the caption, not normalised to length 1", kind="raw"),
    "logit_scale": Output("what cosines are multiplied by, exponentiated", (), "positive"),
    "logit_bias": Output("what is added to scaled cosines (SigLIP)", (), "number"),
    "image_hidden": Output("image features before the projection", ("B", "W"), "raw"),
    "image_tokens": Output("one feature per patch, in the shared space", ("B", "P", "D"), "raw"),
    "text_tokens": Output("one feature per token, before the projection", ("B", "L", "T"), "raw"),
    "text_mask": Output("which tokens are words of the caption", ("B", "L"), "mask"),
    "image_log_variance": Output("log variance of the image's embedding", ("B", "D"), "raw"),
    "text_log_variance": Output("log variance of the caption's embedding", ("B", "D"), "raw"),
    # further views and texts of the same sample
    "image_view2": Output("features of a second augmented view"),
    "text_view2": Output("features of a second caption, or of an augmented one"),
    "hidden_view1": Output("a strongly augmented view, before the projection", ("B", "W"), "raw"),
    "hidden_view2": Output("another strongly augmented view, before the projection", ("B", "W"), "raw"),
    "hidden_local": Output("small local crops, before the projection", ("B", "V", "W"), "raw"),
    "image_masked": Output("features of the image with most patches hidden"),
    "image_masked_log_variance": Output("their log variance", ("B", "D"), "raw"),
    "text_masked": Output("features of the caption with words hidden"),
    "text_masked_log_variance": Output("their log variance", ("B", "D"), "raw"),
    "masked_tokens": Output("tokens of a caption with words hidden, before the projection", ("B", "L", "T"), "raw"),
    "masked_labels": Output("the hidden words' ids", ("B", "L"), "token"),
    "text_positives": Output("features of several sub-captions", ("B", "N", "D")),
    "text_short": Output("features of a short caption, in addition to the long one"),
    "text_synthetic": Output("features of a synthetic caption"),
    "text_negative": Output("features of a hard negative caption"),
    "image_negative": Output("features of a hard negative image"),
    # teachers; no gradient reaches them
    "teacher.image": Output("image features of the teacher"),
    "teacher.text": Output("text features of the teacher"),
    "teacher.logit_scale": Output("logit scale of the teacher", (), "positive"),
    "teacher.image_hidden": Output("the teacher's image features before its projection", ("B", "W"), "raw"),
    # classifiers
    "logits": Output("scores of all classes", ("B", "C"), "raw"),
    "class_features": Output("text features of all classes", ("C", "D")),
    "class_priors": Output("log shares of the classes among the images, where each class counts alike", ("C",), "raw"),
    "teacher.class_features": Output("the teacher's text features of all classes", ("C", "D")),
    # what the data says
    "labels": Output("class or identity", ("B",), "class"),
    "image_ids": Output("index of the image, where an image has several captions", ("B",), "class"),
    "image_findings": Output("findings in the image: 1 present, 0 uncertain, -1 absent", ("B", "E"), "finding"),
    "text_findings": Output("findings in the caption: 1 present, 0 uncertain, -1 absent", ("B", "E"), "finding"),
    "index": Output("the sample's row in the training set", ("B",), "row"),
}
"""What all losses may ask for. A loss that needs more brings it: `Loss.outputs`."""

MASKED_SHARE = 0.15
"""Share of a caption's words that `masked_tokens` asks for, as in BERT: Pre-training of Deep Bidirectional
Transformers, 2018, arXiv 1810.04805."""

SHARED = frozenset(name for name, output in OUTPUTS.items() if output.shared)
"""Names that hold no row per sample, but one value for the whole batch, the same on all ranks."""
