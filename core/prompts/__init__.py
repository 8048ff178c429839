"""Class texts: templates, vocabularies, descriptions, learned contexts."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "classifier": "TokenLayout POSITIONS build_classifier check_templates encoded_classes fill",
        "context": "PromptLearner",
        "languages": "ClassWords",
    },
)
