"""The defects of `benchmarks/defects.py` are written for the code as it is."""

import defects
import pytest

LISTED = [each for of_list in defects.read_lists().values() for each in of_list]


@pytest.mark.parametrize("defect", LISTED, ids=lambda each: each.name)
def test_a_defect_applies_to_the_code_and_its_tests_are_there(defect):
    text = (defects.ROOT / defect.file).read_text(encoding="utf-8")
    assert text.count(defect.old) == 1 and defect.new != defect.old
    assert [name for name in defect.tests if not (defects.ROOT / name.split("::")[0]).exists()] == []
