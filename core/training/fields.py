"""The fields of a training batch: which output needs which, and which the data must be able to give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..contracts.loss import output_in_words, shared_of
from ..contracts.outputs import OUTPUTS, Output
from ..errors import CapabilityError
from .sources import TrainingSource

PREFIX = {"text": "tokens", "numbers": "numbers", "image": "pixels"}
"""What a column holds -> how the field of the batch begins that is made of it: "tokens.COLUMN"."""

TEXT_KINDS = {
    "tokens": "caption",
    "tokens_view2": "view2",
    "tokens_positives": "positives",
    "tokens_short": "short",
    "tokens_synthetic": "synthetic",
    "tokens_negative": "negative",
}
"""Field -> kind of text that the source is asked for."""

TRANSLATED = "sentence"
"""The kind of text, and the field, of what a text translates: a teacher reads it, the towers do not."""
SENTENCE = "tokens_sentence"
"""What a batch of pairs of texts has in the place of pixels."""
OF_TEXT_PAIRS = frozenset({"pixels", "tokens", "index"})
"""Fields of losses that pairs of texts can be trained by."""

CURES = {
    TRANSLATED: "a table of sentences and their translations",
    "tokens": "captions, or one label per image",
    "tokens_view2": "captions, or one label per image",
    "tokens_synthetic": "a column 'synthetic', or rewrites",
    "tokens_negative": "a column 'negative'",
    "tokens_positives": "long captions or several per image",
    "tokens_short": "a column 'short'",
    "pixels_negative": "a column 'negative_image'",
    "labels": "a column 'label'",
}


def fields_of(
    needs: Iterable[str], source: TrainingSource, asking: str, brought: Mapping[str, Output] | None = None
) -> frozenset[str]:
    """The fields that make these outputs.

    Args:
        needs: names of outputs.
        source: the data.
        asking: who needs them, for the message ("loss 'alip'").
        brought: outputs that losses bring.

    Raises:
        CapabilityError: no data can give one of them, or this data cannot.
    """
    brought = brought or {}
    names: set[str] = set()
    for need in sorted(set(needs) - shared_of(brought)):
        words = f"{asking} needs {output_in_words(need, brought)}"
        fields = _fields_of(OUTPUTS.get(need)) or _fields_of(brought.get(need))
        if not fields:
            raise CapabilityError(
                f"{words}, which no pairs or class folders hold; "
                + ("a domain's own trainer gives it" if need in OUTPUTS else "no part of this version gives it")
            )
        for field in fields:
            if not is_given(field, source):
                cure = CURES.get(field) or f"a column '{column_of(field)}'"
                raise CapabilityError(f"{words}; the data has none, give {cure}")
            names.add(field)
    return frozenset(names)


def field_of_column(output: Output) -> str:
    """The field of a batch that an output's column becomes: "numbers.age"."""
    return f"{PREFIX[output.column_kind]}.{output.column}"


def column_of(field: str) -> str:
    """The column that a field is made of, "" for the usual fields."""
    return field.partition(".")[2]


def check_text_pairs(fields: Iterable[str], asking: str) -> None:
    """Raise the CapabilityError of fields that pairs of texts, in which a sentence is in the place of the image, cannot
    give.

    Args:
        asking: as of `fields_of`.
    """
    if lacking := sorted(set(fields) - OF_TEXT_PAIRS):
        raise CapabilityError(
            f"{asking} needs {lacking[0]} of every sample, which sources of texts without images do not have; use clip "
            "or siglip, or leave those sources out"
        )


def text_kind(field: str) -> str | None:
    """The kind of text that the source is asked for, where a field is one of texts."""
    return TEXT_KINDS.get(field) or (column_of(field) if field.startswith("tokens.") else None)


def is_given(field: str, source: TrainingSource) -> bool:
    """Whether the data can make a field."""
    if (kind := text_kind(field)) is not None:
        return kind in source.texts
    if field == TRANSLATED:
        return field in source.texts
    if column := column_of(field):
        return PREFIX.get(source.columns.get(column, "")) == field.partition(".")[0]
    if field == "labels":
        return source.labelled
    return field != "pixels_negative" or "negative_image" in source.texts


def _fields_of(output: Output | None) -> tuple[str, ...]:
    if output is None:
        return ()
    return (field_of_column(output),) if output.column else output.fields
