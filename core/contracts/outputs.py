"""The names under which losses find what towers, views and data give: one row per sample unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """What a name in `out` stands for.

    Args:
        meaning: in words, for messages.
        shape: symbols of its axes: B batch, D embed_dim, W image_width, T text_width, P patches, L text tokens,
            N sub-captions of an image, V local views, G global crops, E findings,
            C classes, X words of the vocabulary. What does not begin with B is one value for the whole batch.
        kind: "unit" (rows of length 1), "raw", "mask" (bool), "positive" (one number above 0), "number", "class",
            "row" (of the training set), "token" (-100 where nothing is asked) or "finding" (-1, 0, 1).
        column: of an output that a loss brings: the column of the data that it is made of.
        tower: what encodes the column: "text" its texts, "image" the files it names; "" takes its numbers as they are,
            NaN (a class: -1) where a row has none.
        fields: what of the batch it is made of ("pixels", "tokens"), where that is no column. Of those in `OUTPUTS`
            without any, a domain's own trainer, or the model, gives them.
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


PIXELS, CAPTION = ("pixels",), ("tokens",)
HIDDEN_PATCHES, HIDDEN_WORDS = (*PIXELS, "draws"), (*CAPTION, "draws")

OUTPUTS: dict[str, Output] = {
    # towers on the image and its caption
    "image_features": Output("image features", fields=PIXELS),
    "text_features": Output("text features of the caption", fields=CAPTION),
    "image_embedding": Output("image features, not normalised to length 1", kind="raw", fields=PIXELS),
    "text_embedding": Output("text features of the caption, not normalised to length 1", kind="raw", fields=CAPTION),
    "logit_scale": Output("what cosines are multiplied by, exponentiated", (), "positive"),
    "logit_bias": Output("what is added to scaled cosines (SigLIP)", (), "number"),
    "image_hidden": Output("image features before the projection", ("B", "W"), "raw", fields=PIXELS),
    "image_tokens": Output("one feature per patch, in the shared space", ("B", "P", "D"), "raw", fields=PIXELS),
    "text_tokens": Output("one feature per token, before the projection", ("B", "L", "T"), "raw", fields=CAPTION),
    "text_mask": Output("which tokens are words of the caption", ("B", "L"), "mask", fields=CAPTION),
    "image_log_variance": Output("log variance of the image's embedding", ("B", "D"), "raw", fields=PIXELS),
    "text_log_variance": Output("log variance of the caption's embedding", ("B", "D"), "raw", fields=CAPTION),
    # further views and texts of the same sample
    "image_view2": Output("features of a second augmented view", fields=("pixels_view2",)),
    "text_view2": Output("features of a second caption, or of an augmented one", fields=("tokens_view2",)),
    "hidden_view1": Output(
        "a strongly augmented view, before the projection", ("B", "W"), "raw", fields=("pixels_strong1",)
    ),
    "hidden_view2": Output(
        "another strongly augmented view, before the projection", ("B", "W"), "raw", fields=("pixels_strong2",)
    ),
    "hidden_local": Output(
        "small local crops, before the projection", ("B", "V", "W"), "raw", fields=("pixels_local",)
    ),
    "image_masked": Output("features of the image with most patches hidden", fields=HIDDEN_PATCHES),
    "image_masked_log_variance": Output("their log variance", ("B", "D"), "raw", fields=HIDDEN_PATCHES),
    "text_masked": Output("features of the caption with words hidden", fields=HIDDEN_WORDS),
    "text_masked_log_variance": Output("their log variance", ("B", "D"), "raw", fields=HIDDEN_WORDS),
    "masked_tokens": Output(
        "tokens of a caption with words hidden, before the projection", ("B", "L", "T"), "raw", fields=HIDDEN_WORDS
    ),
    "masked_labels": Output("the hidden words' ids", ("B", "L"), "token", fields=HIDDEN_WORDS),
    "text_positives": Output("features of several sub-captions", ("B", "N", "D"), fields=("tokens_positives",)),
    "text_short": Output("features of a short caption, in addition to the long one", fields=("tokens_short",)),
    "text_synthetic": Output("features of a synthetic caption", fields=("tokens_synthetic",)),
    "text_negative": Output("features of a hard negative caption", fields=("tokens_negative",)),
    "image_negative": Output("features of a hard negative image", fields=("pixels_negative",)),
    # teachers; no gradient reaches them
    "teacher.image": Output("image features of the teacher", fields=PIXELS),
    "teacher.text": Output("text features of the teacher", fields=CAPTION),
    "teacher.sentence": Output(
        "the teacher's text features of the sentence that the text translates, not normalised to length 1",
        kind="raw",
        fields=("sentence",),
    ),
    "teacher.text_synthetic": Output(
        "the teacher's text features of the synthetic caption", fields=("tokens_synthetic",)
    ),
    "teacher.logit_scale": Output("logit scale of the teacher", (), "positive"),
    "teacher.image_hidden": Output(
        "the teacher's image features before its projection", ("B", "W"), "raw", fields=PIXELS
    ),
    "teacher.masked_tokens": Output(
        "the teacher's tokens of the caption with the same words hidden", ("B", "L", "T"), "raw", fields=HIDDEN_WORDS
    ),
    # classifiers
    "logits": Output("scores of all classes", ("B", "C"), "raw", fields=("pixels", "labels")),
    "class_features": Output("text features of all classes", ("C", "D")),
    "class_priors": Output("log shares of the classes among the images, where each class counts alike", ("C",), "raw"),
    "teacher.class_features": Output("the teacher's text features of all classes", ("C", "D")),
    # what the data says
    "labels": Output("class or identity", ("B",), "class", fields=("labels",)),
    "image_ids": Output(
        "index of the image, where an image has several captions", ("B",), "class", fields=("image_ids",)
    ),
    "index": Output("the sample's row in the training set", ("B",), "row", fields=("index",)),
}
"""What all losses may ask for. A loss that needs more brings it: `Loss.outputs`."""

MASKED_SHARE = 0.15
"""Share of a caption's words that `masked_tokens` asks for, as in BERT: Pre-training of Deep Bidirectional
Transformers, 2018, arXiv 1810.04805."""

SHARED = frozenset(name for name, output in OUTPUTS.items() if output.shared)
"""Names that hold no row per sample, but one value for the whole batch, the same on all ranks."""
