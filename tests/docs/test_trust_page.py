"""docs/measurements/trust.md: one command makes its tables, what they say holds, and what is absent is passed over."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from forked import run

from vladapt.core.confidence import coverage_range, fewest_rows
from vladapt.core.confidence.selective import fewest_groups, rows_without_mistake

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "measurements" / "trust.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
NAMES = ("auroc", "drawn-auroc", "unequal", "intervals", "coverage", "patients", "open-patients")
NAMES += ("operating-points", "calibration", "present", "unlike", "calls")


@pytest.fixture
def trust(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import trust

    return trust


def table(trust, name: str) -> list[list[str]]:
    """The cells of the rows of a table of the page, all its tables below each other, without their headers."""
    begin, end = trust.marks(name)
    lines = PAGE.partition(begin)[2].partition(end)[0].strip().splitlines()
    rulers = {number for number, line in enumerate(lines) if line.startswith("|---")}
    rows = [line for number, line in enumerate(lines) if number not in rulers and number + 1 not in rulers]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in rows if line]


def test_each_table_of_the_command_is_on_the_page_once_with_rows(trust):
    assert tuple(trust.SECTIONS) == NAMES
    for name in NAMES:
        assert all(PAGE.count(mark) == 1 for mark in trust.marks(name))
        assert table(trust, name), name


def test_a_table_is_written_between_its_own_marks(trust):
    written = trust.with_table(PAGE, "coverage", "| new |")
    begin, end = trust.marks("coverage")
    assert written.partition(begin)[2].partition(end)[0] == "\n| new |\n"
    assert written.partition(begin)[0] == PAGE.partition(begin)[0]
    assert written.partition(end)[2] == PAGE.partition(end)[2]
    with pytest.raises(ValueError, match="the page has no line <!-- coverage"):
        trust.with_table("# Another page", "coverage", "| new |")


def test_intervals_hold_the_truth_as_often_as_the_page_says(trust):
    rows, page = table(trust, "intervals"), " ".join(PAGE.split())
    assert "holds the truth in 93 % of the sets or more, with groups in 90 % or more" in page
    assert len(rows) == len(list(trust.intervals.cells()))
    for _, images, _, coverage, _ in rows:
        least = 0.90 if "groups" in images else 0.93
        assert all(float(share) >= least for share in coverage.split(" · ")), images


def test_the_mean_coverage_of_split_rows_is_within_a_point_of_the_theory(trust):
    rows = table(trust, "coverage")
    assert {row[1] for row in rows} == set(trust.coverage.WAYS)
    for row in rows:
        expected, *found = (float(cell.split(" ± ")[0]) for cell in row[3:7])
        assert expected == pytest.approx(100 * trust.coverage.expected(int(row[2])), abs=0.5)
        if not row[1].startswith("folds"):
            alone = [size == "1.0" for size in row[7].split(", ")]  # the answer, which may be right more often
            assert all(abs(value - expected) <= 1 or (value > expected and one) for value, one in zip(found, alone)), (
                row
            )


def test_sets_for_new_patients_hold_what_was_asked_on_average(trust):
    rows = table(trust, "patients")
    assert len(rows) == 16 and {row[0] for row in rows} == {str(count) for count in trust.patients.PATIENTS}
    for row in rows:
        mean, least = float(row[4].split(" ± ")[0]), float(row[5].split(" to ")[0])
        assert mean >= 90 and mean < 90 + 110 / int(row[0]), row
        assert least == round(100 * coverage_range(int(row[0]), 0.9)[0])
    assert any(float(row[3].split(" ± ")[0]) < 90 for row in rows), "images counted"
    one = trust.patients.coverages(25, None, True, draws=5)
    assert one.shape == (5, 2) and (one[:, 0] != one[:, 1]).any()


def test_answers_to_new_patients_are_wrong_as_seldom_as_asked(trust):
    rows = table(trust, "open-patients")
    assert all(float(cell.split(", ")[1]) <= 10 for row in rows for cell in row[1:])
    given = [[float(cell.split(", ")[0]) for cell in row[1:]] for row in rows]
    assert given == sorted(given) and all(list(column) == sorted(column) for column in zip(*given))
    over, share = trust.patients.open_answers(50, 0.2, draws=5)
    assert over == 0 and 0.1 < share < 0.9


@pytest.mark.thorough
def test_operating_points_reach_what_was_wished_on_average_or_with_assurance(trust):
    """Over the draws of the page; and a draw of each kind again, by whole fits."""
    rows = table(trust, "operating-points")
    assert len(rows) == 4
    for row in rows:
        for mean, below, least in ((row[2], None, 89), (row[4], row[5], 90)):
            assert float(mean.split(" ± ")[0]) >= least, row
            assert below is None or int(below.split(" of ")[0]) <= 3, row
    point, assured = (trust.operating_points.reached("specificity", 40, 1, each, draws=2) for each in (False, True))
    assert all(0.8 < one < other for one, other in zip(point, assured, strict=True))


def test_the_reported_auroc_is_that_of_scikit_learn(trust):
    rows = {row[0]: row for row in table(trust, "auroc")}
    assert set(rows) <= set(trust.ranking.adapters())
    assert all(float(row[-1]) < 1e-3 for row in rows.values())


def test_a_method_that_loses_more_than_two_points_to_more_labels_is_named_below_the_table(trust):
    """The generic test of the adapters allows none, on drawn classes with more images to test on."""
    rows = {row[0]: row for row in table(trust, "unequal")}
    assert set(rows) <= set(trust.unequal.methods())
    fallen = [name for name, row in rows.items() if "↓" in row[1] + row[3]]
    words = " ".join(PAGE.partition(trust.marks("unequal")[1])[2].partition("\n## ")[0].split())
    assert all(re.search(rf"`{name}` (loses|is hardly trained)", words) for name in fallen), fallen


def test_the_coverage_expected_is_that_of_the_beta_binomial(trust):
    from scipy.stats import betabinom

    for rows, tested in ((30, 100), (76, 302), (284, 569)):
        place = -(-(rows + 1) * 9 // 10)
        drawn = betabinom(tested, place, rows + 1 - place)
        assert trust.coverage.expected(rows) == pytest.approx(drawn.mean() / tested)
        assert trust.coverage.expected_spread(rows, tested) == pytest.approx(drawn.std() / tested)
    assert trust.coverage.expected(8) == 1 and trust.coverage.expected_spread(8, 100) == 0


def test_sets_of_rows_divided_at_random_cover_as_expected(trust, tmp_path):
    file = trust.coverage.drawn_classes(tmp_path / "drawn.npz", 1, {"": [15] * 16})
    found = trust.coverage.outcomes(file, "divided at random", 60)
    expected, rows, tested, _, _ = found[0]
    means = torch.tensor([each[3] for each in found]).mean(dim=0)
    slack = 4 * trust.coverage.expected_spread(rows, tested) / 60**0.5
    assert (means - expected).abs().max() < slack


def test_no_score_of_the_drawn_labels_ranks_better_than_the_best(trust):
    from sklearn.metrics import roc_auc_score

    (_, text, images, labels), best = trust.ranking.drawn_labels(0), trust.ranking.best(trust.ranking.COSINE)
    scores = torch.nn.functional.normalize(images, dim=1) @ text.T
    found = [roc_auc_score(labels[:, c].int(), scores[:, c]) for c in range(scores.shape[1])]
    assert sum(found) / len(found) == pytest.approx(best, abs=0.01)
    assert best < trust.ranking.best()


def test_a_cell_marks_what_more_labels_cost(trust):
    assert trust.unequal._cell([40.2, 39.0, 61.0]) == "40 · 39 · 61"
    assert trust.unequal._cell([64.0, 61.9, 58.0]) == "64 ↓ 62 ↓ 58"


def test_confidences_without_fault_show_less_error_the_more_images_there_are(trust):
    probs = torch.softmax(torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)), dim=1).double()
    few, many = (trust.calibration.error_without_fault(probs[:count]) for count in (50, 2000))
    assert 0 < many < 0.03 < few


def test_public_data_that_are_absent_are_one_line_and_no_table(tmp_path):
    done = run([ROOT / "benchmarks" / "trust.py", "--data", tmp_path, "calls", "present"])
    assert done.returncode == 0 and not done.stdout
    assert done.stderr.count(f"skipped: there is no {tmp_path}") == 2


def test_a_name_that_is_no_table_is_refused():
    done = run([ROOT / "benchmarks" / "trust.py", "aurok"])
    assert done.returncode == 2 and "there is no table aurok; there are auroc, drawn-auroc" in done.stderr


def test_the_numbers_of_rows_are_those_of_the_code():
    assert f"fewer than {fewest_rows(0.9)} rows for 0.9 ({fewest_rows(0.95)} for 0.95)" in GUIDE
    needed = f"takes {rows_without_mistake(0.05)} rows without a mistake for 5 %, {rows_without_mistake(0.1)} for 10 %"
    assert needed in GUIDE.replace("\n", " ")
    groups = f"takes {fewest_groups(0.05)} groups without a mistake for 5 %, {fewest_groups(0.1)} for 10 %"
    assert groups in GUIDE and f"need {fewest_rows(0.9)} groups for 0.9, {fewest_rows(0.95)} for 0.95" in GUIDE


def test_the_command_is_named_with_names_of_tables_that_exist(trust):
    assert "`python benchmarks/trust.py --page`" in PAGE
    assert set(re.findall(r"^\| \[([\w-]+)\]\(#", PAGE, re.MULTILINE)) == set(trust.SECTIONS)
