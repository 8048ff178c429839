"""Which images of an evaluation were in the fit, and what is said where nobody can know."""

from __future__ import annotations

import pytest

from vladapt import Evaluated
from vladapt.core.contracts.items import Item
from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.verify import digests_of, image_digest
from vladapt.core.runs import folder
from vladapt.core.runs.folder import in_the_fit, kept_digests
from vladapt.core.runs.redaction import redacted_result


@pytest.fixture
def items(tmp_path) -> list[Item]:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(bytes([number]) * 40)
    return [Item(str(number), tmp_path / f"{number}.png") for number in range(4)]


def test_images_are_known_by_what_they_show(items, tmp_path):
    info = RunInfo(digests=kept_digests({"train": items[:2], "val": items[2:3]}, digests_of))
    (tmp_path / "renamed.png").write_bytes(items[0].source.read_bytes())
    again = [Item("renamed", tmp_path / "renamed.png"), items[3]]
    found = in_the_fit(info, lambda: digests_of(again))
    assert found["in_fit"] == 1 and found["in_fit_words"].startswith("1 of the 2 images was in the fit.")


def test_how_large_an_image_may_be_is_not_what_it_shows(items):
    hashes = FileHashes()
    limited = items[0].with_(decode={"max_pixels": 1000})
    assert image_digest(limited, hashes) == image_digest(items[0], hashes)
    assert image_digest(items[0].with_(decode={"frame": 2}), hashes) != image_digest(items[0], hashes)


def test_stretches_of_a_file_count_where_they_overlap(items):
    def of(number, start, end):
        return items[number].with_(decode={"frames": 8, "start": start, "end": end})

    info = RunInfo(digests=kept_digests({"train": [of(0, 2, 5), of(1, None, 3)], "val": [items[2]]}, digests_of))
    for scored, seen in (
        ([of(0, 2, 5), of(0, 4.5, 9), of(0, 0, None)], 3),
        ([of(0, 5, 9), of(0, 0, 2), of(3, 2, 5), of(1, 3, None)], 0),
        ([items[0].with_(decode={"frames": 8}), of(1, 0, 0.5)], 2),
        ([items[0], of(2, 1, 2)], 0),  # other frames of it
    ):
        assert in_the_fit(info, lambda scored=scored: digests_of(scored))["in_fit"] == seen


def test_what_is_no_file_is_counted_and_said(items):
    info = RunInfo(digests=kept_digests({"train": items[:1]}, digests_of))
    found = in_the_fit(info, lambda: digests_of([items[0], Item("drawn", "/nowhere/drawn.png")]))
    assert found["in_fit"] == 1
    assert found["in_fit_words"].endswith("1 of them are not files, so they cannot be compared.")


@pytest.mark.parametrize(
    ("digests", "why"),
    [
        (None, "an older version"),
        ({"too_many": 300_000}, "it had 300,000 images"),
        ({"train": ["", "ab"]}, "some of its images were not files"),
    ],
)
def test_where_nobody_can_know_that_is_said(digests, why):
    found = in_the_fit(RunInfo(digests=digests), lambda: pytest.fail("not needed"))
    assert found["in_fit"] is None and why in found["in_fit_words"]


def test_a_run_remembers_only_so_many(items, monkeypatch):
    monkeypatch.setattr(folder, "MOST_DIGESTS", 3)
    assert kept_digests({"train": items}, digests_of) == {"too_many": 4}


def test_a_redacted_evaluation_names_no_file_that_could_not_be_read():
    skipped = [["ward/smith_john.png", "ward/smith_john.png: damaged image"]]
    told = redacted_result(Evaluated("run", "ward", "test", {}, notes=["left out smith_john.png"], skipped=skipped))
    assert "smith" not in str(told) and told.skipped == [["unreadable sample 1", "unreadable sample 1: damaged image"]]
    assert told.data != "ward"
