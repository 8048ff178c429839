"""Outcomes of configs: their reasons, their lines, the page."""

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from stock_checks.limited import Ending
from stock_checks.outcomes import as_line, in_few_words, outcome_of, page, read_outcomes, summary

from vladapt.core.errors import DataError

ENDINGS = {
    "mmdet/a": Ending(value=(41_500_000, ""), cpu_s=4.2, memory_gib=1.1),
    "mmdet/b": Ending(error="ModuleNotFoundError: No module named 'ldm.util'", cpu_s=1, memory_gib=0.9),
    "mmseg/c": Ending(over="10 GiB", cpu_s=9),
}
OUTCOMES = [outcome_of(folder, "x_r50.py", ending) for folder, ending in ENDINGS.items()]


@pytest.mark.parametrize(
    "error",
    [
        "ModuleNotFoundError: No module named 'mmpretrain'",
        "ImportError: Failed to import custom modules from {'imports': ['mmpretrain.models'], 'allow': False}",
        'RuntimeError: Please run "pip install openmim" and run "mim install mmpretrain" to install mmpretrain first.',
        "KeyError: 'mmpretrain.TIMMBackbone is not in the mmdet::model registry.'",
        "RuntimeError: mmpretrain is not installed, please install it by: pip install mmpretrain",
    ],
)
def test_a_missing_package_is_named_with_its_cure(error):
    assert in_few_words(error) == "needs the package mmpretrain: pip install mmpretrain"


def test_other_reasons_are_cut():
    assert in_few_words("ValueError: short") == "ValueError: short"
    missing = in_few_words("FileNotFoundError: file '/a/site-packages/mmdet/.mim/configs/x.py' does not exist")
    assert missing == "FileNotFoundError: file 'configs/x.py' does not exist"
    assert len(in_few_words("ValueError: " + "long " * 99)) <= 100


def test_what_fits_is_counted():
    assert [outcome.outcome for outcome in OUTCOMES] == ["works", "fails", "too large"]
    assert summary(OUTCOMES) == "1 of 2 folders work (50.0 %); 1 too large"
    assert summary([]) == "0 of 0 folders work"


def test_lines_are_read_again(tmp_path):
    file = tmp_path / "outcomes.jsonl"
    file.write_text("\n".join(map(as_line, [*OUTCOMES, OUTCOMES[0]])) + "\n")
    assert read_outcomes(file) == {outcome.folder: outcome for outcome in OUTCOMES}
    with file.open("a") as appended:
        appended.write('{"folder": 1}\n')
    with pytest.raises(DataError, match=r"outcomes.jsonl: line 5 is no outcome of a config; give another --out"):
        read_outcomes(file)


def test_the_page_has_a_row_per_folder():
    rows = [line for line in page(OUTCOMES).splitlines() if line.startswith("| mm")]
    assert rows == [
        "| mmdet/a | x_r50 | 41.5 | 4 | 1.1 | works |",
        "| mmdet/b | x_r50 |  | 1 | 0.9 | fails: needs the package ldm: pip install ldm |",
        "| mmseg/c | x_r50 |  | 9 |  | too large: over 10 GiB |",
    ]
