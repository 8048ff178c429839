"""Opt-outs by id and known images by their sums."""

import numpy as np
import pytest

from vladapt.core.contracts.curator import PairTable
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs


def written(path, text):
    path.write_text(text)
    return str(path)


def test_listed_ids_are_removed_and_those_of_no_pair_are_told(tmp_path):
    pairs = drawn_pairs()
    curator = build_curator("removal", ids=written(tmp_path / "out.txt", "id-0003\nid-0100\n\nid-9999\r\n"))
    assert curator.reads == ()
    decision = curator.decide_all(pairs)
    assert np.flatnonzero(~decision.keep).tolist() == [3, 100] and decision.rules == ("removed by id",)
    (note,) = curator.survey(pairs).notes
    assert note.startswith("1 of 3 ids of ")
    assert not build_curator("removal", ids=written(tmp_path / "in.txt", "id-0003\n")).survey(pairs).notes


def test_datacomps_arrays_are_lists_of_ids(tmp_path):
    uids = ["00000000000000ff0000000000000001", "ffffffffffffffff0000000000000002"]
    numbers = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    np.save(tmp_path / "uids.npy", np.array(numbers, "u8,u8"))
    keep = build_curator("removal", ids=str(tmp_path / "uids.npy")).decide_all(PairTable.of([*uids, "0" * 32])).keep
    assert keep.tolist() == [True, False, False]
    np.save(tmp_path / "uids.npy", np.zeros(3))
    with pytest.raises(DataError, match="not an array of DataComp's uids"):
        build_curator("removal", ids=str(tmp_path / "uids.npy")).decide_all(drawn_pairs())


def test_an_array_that_is_not_whole_or_is_pickled_is_refused(tmp_path):
    path = tmp_path / "uids.npy"
    np.save(path, np.zeros(9, "u8,u8"))
    path.write_bytes(path.read_bytes()[:-20])
    for content, message in ((None, "shape"), (b"text", "not a readable .npy"), ("objects", "pickled objects")):
        if content == "objects":
            np.save(path, np.array([{}], object), allow_pickle=True)
        elif content:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            build_curator("removal", ids=str(path)).decide_all(drawn_pairs())


def test_known_images_are_removed_by_either_sum(tmp_path):
    pairs = PairTable.of(
        ["a", "b", "c", "d"], sha256=["1" * 64, "A" * 64, None, "2" * 64], md5=["3" * 32, "4" * 32, "5" * 32, None]
    )
    sums = f"# of a hotline\n{'a' * 64}  name.jpg\n{'5' * 32},more\n"
    curator = build_curator("removal", hashes=written(tmp_path / "known.txt", sums))
    assert curator.reads == ("md5", "sha256")
    decision = curator.decide_all(pairs)
    assert decision.keep.tolist() == [True, False, False, True] and decision.rules == ("known image",)
    only = build_curator("removal", hashes=written(tmp_path / "sha.txt", "A" * 64))
    assert only.reads == ("sha256",) and only.decide_all(pairs).keep.tolist() == [True, False, True, True]
    both = build_curator("removal", ids=written(tmp_path / "ids.txt", "b\nd\n"), hashes=str(tmp_path / "known.txt"))
    assert both.decide_all(pairs).reason.tolist() == [0, 1, 2, 1]


def test_lists_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither ids nor hashes"):
        build_curator("removal")
    for name, text, problem in (
        ("short", "abc\n", r"short line 1: 'abc' is neither a sha256"),
        ("words", "0" * 64 + "\n" + "z" * 64 + "\n", r"words line 2"),
        ("empty", "# nothing\n\n", "empty; write one sum"),
    ):
        with pytest.raises(DataError, match=problem):
            build_curator("removal", hashes=written(tmp_path / name, text)).decide_all(drawn_pairs())
    with pytest.raises(DataError, match="empty; write one id"):
        build_curator("removal", ids=written(tmp_path / "none", "\n")).decide_all(drawn_pairs())
    with pytest.raises(DataError, match="gone"):
        build_curator("removal", ids=str(tmp_path / "gone")).decide_all(drawn_pairs())
