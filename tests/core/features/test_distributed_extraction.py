"""Two ranks share the work and hold the same whole, which is that of one process."""

from __future__ import annotations

from pathlib import Path

import torch
from forked import run_ranks
from tiny_tower import Frames, TinyTower, Transform, clip_set, drawn_set

from vladapt import FeatureStore

HERE = Path(__file__).parent

CODE = """
import sys
sys.path.insert(0, {here!r})
import torch
from tiny_tower import TinyTower, Transform, drawn_set
from vladapt import DataError, FeatureStore
from vladapt.core.runtime.distributed import rank, start_from_environment, stop
start_from_environment()
good = drawn_set(11)
def load(item):
    if item.id in {bad!r}:
        raise DataError(item.id + ": unreadable")
    return good.load(item)
tower, data = TinyTower(), drawn_set(11, load=load)
def before(batch):
    if {fails} and rank() == 1:
        raise DataError("rank 1 has no space left")
tower.before_batch = before
found = FeatureStore({root!r}).get_or_compute(
    data, data.items, tower, Transform(), views=2, view_transform=Transform(), batch_size=2
)
torch.save([found.features.features, found.features.views, found.features.labels], {out!r} + str(rank()))
print(tower.images, found.computed, found.cached, found.skipped, found.features.ids)
stop()
"""


CLIPS = """
import sys
sys.path.insert(0, {here!r})
import torch
from tiny_tower import Frames, TinyTower, clip_set
from vladapt import FeatureStore
from vladapt.core.runtime.distributed import rank, start_from_environment, stop
start_from_environment()
tower = TinyTower()
for lengths in ({lengths!r}, [0] * 3, [0, 2]):
    data = clip_set(lengths)
    found = FeatureStore({root!r}).get_or_compute(data, data.items, tower, Frames(), parts=True)
    features = found.features
    saved = [features.features] + ([] if features.parts is None else [features.parts, features.parts_mask])
    torch.save(saved, {out!r} + str(rank()) + str(len(lengths)))
    print(tower.images, found.computed, features.ids)
stop()
"""

SLIDES = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_bag_sets import encoded, slides_in
from vladapt.core.runtime.distributed import rank, start_from_environment, stop
start_from_environment()
data, tiles = slides_in(Path({out!r}))
found = encoded(data, Path({root!r}))
print([name for name in tiles if tiles[name].reads], found.computed, found.features.features[:, 0].tolist())
stop()
"""


def on_two(root, out, bad=(), fails=False, code=CODE, **more):
    code = code.format(here=str(HERE), root=str(root), out=str(out), bad=list(bad), fails=fails, **more)
    return [(done.stdout, done.stderr, done.returncode) for done in run_ranks(["-c", code])]


def test_ranks_split_the_work_and_hold_the_same_whole(tmp_path):
    first = on_two(tmp_path / "store", tmp_path / "rank", bad=["3", "6"])
    assert [code for *_, code in first] == [0, 0], first
    # rank 0 has items 0 2 4 6 8 10, of which 6 is unreadable; rank 1 has 1 3 5 7 9, of which 3 is.
    said = "27 0 [('3', '3: unreadable'), ('6', '6: unreadable')] ('0', '1', '2', '4', '5', '7', '8', '9', '10')"
    assert [out.strip() for out, *_ in first] == [f"15 {said}", f"12 {said}"]
    of_ranks = [torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*of_ranks))
    data = drawn_set(11)
    items = [item for item in data.items if item.id not in "36"]
    options = {"views": 2, "view_transform": Transform(), "batch_size": 2}
    alone = FeatureStore(tmp_path / "own").get_or_compute(data, items, TinyTower(), Transform(), **options).features
    for theirs, own in zip(of_ranks[0], (alone.features, alone.views, alone.labels)):
        torch.testing.assert_close(theirs, own)
    # What each rank stored serves all.
    shared = FeatureStore(tmp_path / "store").get_or_compute(data, items, TinyTower(), Transform(), **options)
    assert (shared.computed, shared.cached) == (0, 27)


def test_an_error_on_one_rank_ends_both_with_its_line(tmp_path):
    for _, errors, code in on_two(tmp_path / "store", tmp_path / "rank", fails=True):
        assert code == 1
        assert errors.strip().splitlines()[-1].endswith("DataError: rank 1 has no space left")


def test_ranks_gather_parts_of_any_lengths(tmp_path):
    lengths = [3, 0, 5, 1, 2]
    ranks = on_two(tmp_path / "store", tmp_path / "rank", code=CLIPS, lengths=lengths)
    assert [code for *_, code in ranks] == [0, 0], ranks
    # rank 0 has clips of 3, 5 and 2 frames, rank 1 an image and one frame; then images alone; then an image and a clip.
    told = [out.split("\n")[0].split(" ", 1) for out, *_ in ranks]
    assert told == [["10", "5 ('0', '1', '2', '3', '4')"], ["2", "5 ('0', '1', '2', '3', '4')"]]
    for some in (lengths, [0] * 3, [0, 2]):
        first, second = (torch.load(tmp_path / f"rank{rank}{len(some)}", weights_only=True) for rank in range(2))
        data, store = clip_set(some), FeatureStore(tmp_path / "own")
        alone = store.get_or_compute(data, data.items, TinyTower(), Frames(), parts=True).features
        expected = [alone.features] + ([] if alone.parts is None else [alone.parts, alone.parts_mask])
        assert len(first) == len(expected) == (3 if any(some) else 1)
        for of_first, of_second, own in zip(first, second, expected):
            assert torch.equal(of_first, of_second)
            torch.testing.assert_close(of_first, own)


def test_ranks_divide_slides_and_hold_the_same_bags(tmp_path):
    (tmp_path / "slides").mkdir()
    told = on_two(tmp_path / "cache" / "features", tmp_path / "slides", code=SLIDES)
    assert [out.strip() for out, *_ in told] == ["['a'] 2 [4.5, 103.0]", "['b'] 2 [4.5, 103.0]"], told
