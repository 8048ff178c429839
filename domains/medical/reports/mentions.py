"""Entities that reports mention: tables that a linker made, or lists of the words for each entity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....core.data import Table, read_table
from ....core.errors import DataError
from ....core.runtime import read_json
from .reading import STUDY_COLUMNS


@dataclass(frozen=True)
class Mention:
    """An entity where a report mentions it.

    Attributes:
        entity: its id or name.
        text: the words that mention it; "" where they are not told.
        study: id of the study that the report belongs to; "" where it is not told.
    """

    entity: str
    text: str = ""
    study: str = ""


def read_mentions(path: Path) -> Iterator[Mention]:
    """The rows of a table with a column `entity`, and perhaps `text` and one of the study.

    Raises:
        DataError: not such a table, or a row without an entity.
    """
    table = read_table(path)
    if "entity" not in table.columns:
        raise DataError(
            f"{path}: not a table of entities, it lacks the column entity; give columns study, entity, text"
        )
    study = table.column_of(STUDY_COLUMNS)
    for row in table.rows:
        if not (entity := row.text("entity")):
            raise DataError(f"{row.place}: no entity; name it, or remove the row")
        yield Mention(entity, row.text("text"), row.text(study))


def words_of_entities(path: Path) -> dict[str, list[str]]:
    """Entity -> the words by which texts mention it, each once, in the order of the file: a table as `read_mentions`
    takes it, or JSON `{"entity": ["words", ...], ...}`.

    Raises:
        DataError: neither of them, or no words at all.
    """
    words: dict[str, dict[str, None]] = {}
    for mention in _listed(path):
        some = words.setdefault(mention.entity, {})
        if mention.text:
            some[mention.text] = None
    if not any(words.values()):
        raise DataError(f"{path}: no words of any entity; give a column text, or a JSON object of lists of words")
    return {entity: list(some) for entity, some in words.items()}


def read_triples(path: Path) -> dict[str, list[str]]:
    """Head -> its tails, of a table with columns `head` and `tail`, one relation of a knowledge graph per row.

    Raises:
        DataError: not such a table, or a row without a head or a tail.
    """
    table, tails = read_table(path), dict[str, list[str]]()
    if missing := [name for name in ("head", "tail") if name not in table.columns]:
        raise DataError(
            f"{path}: not a table of triples, it lacks {', '.join(missing)}; give columns head, relation, tail"
        )
    for row in table.rows:
        head, tail = row.text("head"), row.text("tail")
        if not (head and tail):
            raise DataError(f"{row.place}: a triple without head or tail; name both, or remove the row")
        tails.setdefault(head, []).append(tail)
    return tails


def _listed(path: Path) -> Iterator[Mention]:
    content = read_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(content, dict):
        yield from read_mentions(path)
        return
    for entity, words in content.items():
        if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
            raise DataError(f'{path}: entity {entity} has no list of words; give {{"entity": ["words", ...], ...}}')
        yield Mention(entity)
        for each in words:
            yield Mention(entity, each.strip())


SUFFIXES = Table.SUFFIXES
"""Of files of entities and of triples."""
