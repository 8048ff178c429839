"""Tables that we write are read as they were, and no spreadsheet calculates what they hold."""

from __future__ import annotations

import csv
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data.tables import csv_text, read_table

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
CELLS = st.lists(st.builds(str.__add__, st.sampled_from(["", "=", "+", "-", "@", "\t", "\r", "'", "'="]), TEXTS))
NUMBER = r"[+-]([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?"
NUMBERS = ("-1.5", "+2", "-.5", "-1e-05", "-0.000000")


@given(CELLS)
def test_texts_come_back_and_none_begins_a_formula(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("tables") / "made.csv"
    path.write_text(csv_text(["id", "text"], [(str(n), cell) for n, cell in enumerate(["a", *cells])]), newline="")
    read = [row.values["text"] for row in read_table(path).rows]
    assert read == [cell.replace("\r\n", "\n").replace("\r", "\n") for cell in ["a", *cells]]
    with path.open(newline="", encoding="utf-8") as file:
        shown = [row["text"] for row in csv.DictReader(file)]
    assert not [cell for cell in shown if cell.startswith(tuple("=@+-\t\r\n")) and not re.fullmatch(NUMBER, cell)]


@pytest.mark.parametrize("cell", NUMBERS)
def test_numbers_stay_numbers(cell, tmp_path):
    assert csv_text(["a", "b"], [(cell, float(cell))]) == f"a,b\n{cell},{float(cell)}\n"
    (tmp_path / "made.csv").write_text(csv_text(["a"], [(cell,)]))
    assert read_table(tmp_path / "made.csv").rows[0].values == {"a": cell}


def test_names_of_columns_are_texts_too(tmp_path):
    text = csv_text(["id", "=cmd|' /C calc'!A0"], [("a", 0.5)])
    assert text.startswith("id,'=cmd|")
    (tmp_path / "made.csv").write_text(text)
    assert read_table(tmp_path / "made.csv").columns == ("id", "=cmd|' /C calc'!A0")
