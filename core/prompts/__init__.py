"""Class texts: templates, vocabularies, descriptions, learned contexts."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classifier": "Layout PHOTO POSITIONS build_classifier check_templates encoded_classes fill spoken",
        "context": "CHUNK_TOKENS INIT_STD PromptLearner check_words encode_in_chunks",
        "descriptions": "read_class_json",
        "vocabulary": "broad_vocabulary",
    },
)
