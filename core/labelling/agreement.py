"""Where two people who labelled the same images disagree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data.label_files import Answer, read_answers
from ..errors import DataError


@dataclass(frozen=True)
class AnnotatorAgreement:
    """Two files of labels compared.

    Args:
        both: images that both files have.
        agreed: of these, with the same answer.
        kappa: Cohen's kappa over the answers ("A coefficient of agreement for nominal scales", 1960); None where all
            answers are the same one, which chance explains.
        disagreements: (id, answer of the first, of the second), in the order of the first.
    """

    both: int
    agreed: int
    kappa: float | None
    disagreements: list[tuple[str, str, str]]


def compare_labels(first: str | Path, second: str | Path) -> AnnotatorAgreement:
    """Two files that `vladapt label` wrote.

    Raises:
        DataError: one cannot be read, or they have no image in common.
    """
    from sklearn.metrics import cohen_kappa_score

    ones, others = ({row.id: _words(row) for row in read_answers(path)[0]} for path in (first, second))
    both = [id_ for id_ in ones if id_ in others]
    if not both:
        raise DataError(f"{first} and {second} have no image in common; give two files of one table")
    pairs = [(ones[id_], others[id_]) for id_ in both]
    alone = len({word for pair in pairs for word in pair}) < 2
    kappa = None if alone else float(cohen_kappa_score(*zip(*pairs)))
    apart = [(id_, *pair) for id_, pair in zip(both, pairs) if pair[0] != pair[1]]
    return AnnotatorAgreement(len(both), len(both) - len(apart), kappa, apart)


def _words(row: Answer) -> str:
    return ", ".join(sorted(row.labels)) or row.answer
