"""Files of tile features: what is written is read to the bit, and what cannot be used is said in one line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.bags import Bags
from vladapt.core.errors import DataError
from vladapt.core.features.bag_files import JoinedBag, ScaledBag, open_bag, write_bag

TYPES = (torch.float16, torch.float32, torch.bfloat16)
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 9))


def drawn(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    coords = np.stack([np.arange(shape[0]) * 512, np.arange(shape[0]) % 7 * 512], axis=1)
    return torch.randn(shape, generator=generator).to(dtype), coords


def hdf5(path: Path, features: np.ndarray, coords: np.ndarray | None = None, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = features
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=SHAPES, dtype=st.sampled_from(TYPES), seed=st.integers(0, 99))
def test_our_file_holds_what_was_written(tmp_path, shape, dtype, seed):
    features, coords = drawn(shape, dtype, seed)
    attributes = {"side": 256, "level0_side": 512, "mpp": 0.5, "width": 40_000, "height": 9_000}
    bag = open_bag(write_bag(tmp_path / "a.safetensors", features, coords, attributes, "print", "embedded"))
    assert (bag.counts, bag.dim, bag.attributes) == ((shape[0],), shape[1], attributes)
    assert bag.encoder == "print"
    assert bag.read(0).dtype == dtype and torch.equal(bag.read(0), features)
    assert torch.equal(bag.coords(0), torch.from_numpy(coords))
    assert torch.equal(Bags([bag])[0], features.float())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=SHAPES, half=st.booleans(), led=st.booleans(), seed=st.integers(0, 99))
def test_files_of_clam_and_trident_are_read_as_they_are_stored(tmp_path, shape, half, led, seed):
    features, coords = drawn(shape, torch.float16 if half else torch.float32, seed)
    bag = open_bag(hdf5(tmp_path / "a.h5", features.numpy()[None] if led else features.numpy(), coords))
    assert bag.counts == (shape[0],) and bag.read(0).dtype == features.dtype and torch.equal(bag.read(0), features)
    assert torch.equal(bag.coords(0), torch.from_numpy(coords))
    torch.save(features[None] if led else features, tmp_path / "a.pt")
    bag = open_bag(tmp_path / "a.pt")
    assert torch.equal(bag.read(0), features) and bag.coords(0) is None


def test_what_trident_and_clam_say_of_tiles_is_known(tmp_path):
    (folder := tmp_path / "features_uni_v1").mkdir()
    features, coords = drawn((4, 3))
    said = {"patch_size": 256, "patch_size_level0": 512, "level0_width": 5000, "level0_height": 4000, "name": "a"}
    bag = open_bag(hdf5(folder / "a.h5", features.numpy(), coords, **said))
    assert (
        bag.attributes == {"side": 256, "level0_side": 512, "width": 5000, "height": 4000} and bag.encoder == "uni_v1"
    )
    with h5py.File(folder / "a.h5", "a") as file:
        file["features"].attrs["encoder"] = "conch_v15"
    assert open_bag(folder / "a.h5").encoder == "conch_v15"
    of_clam = open_bag(hdf5(tmp_path / "b.h5", features.numpy(), coords, patch_size=256, downsample=[4.0, 4.0]))
    assert of_clam.attributes == {"side": 256, "level0_side": 1024} and of_clam.encoder == ""


def test_slides_are_joined_and_magnifications_are_told_apart(tmp_path):
    bags = []
    for number, count in enumerate((3, 5)):
        features, coords = drawn((count, 4), seed=number)
        bags.append(open_bag(write_bag(tmp_path / f"{number}.safetensors", features, coords, {})))
    joined, scaled = JoinedBag(tuple(bags), ("0", "1")), ScaledBag(tuple(bags))
    assert joined.counts == (8,) and torch.equal(joined.read(0), torch.cat([bag.read(0) for bag in bags]))
    assert joined.coords(0) is None
    assert scaled.counts == (3, 5) and torch.equal(scaled.read(1), bags[1].read(0))
    assert torch.equal(Bags([scaled]).of_scale(1).coords(0), bags[1].coords(0))


def _external(path: Path) -> Path:
    hdf5(path.with_name("other.h5"), np.zeros((3, 2), np.float32))
    with h5py.File(path, "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "features")
    return path


def _claiming(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (1_000_000, 1_000), np.float32, chunks=(1, 1_000))
    return path


def _pickled(path: Path) -> Path:
    torch.save({"features": Path("a")}, path)
    return path


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("a.h5", lambda path: hdf5(path, np.zeros((0, 4), np.float32)), "holds no tile"),
        ("a.h5", lambda path: hdf5(path, np.zeros((3, 4), np.int64)), r"\(T, D\) floating-point numbers are needed"),
        ("a.h5", lambda path: hdf5(path, np.zeros((2, 3, 4), np.float32)), r"features have shape \(2, 3, 4\)"),
        (
            *("a.h5", lambda path: hdf5(path, np.zeros((3, 4), np.float32), np.zeros((2, 2), int))),
            r"coords have shape \(2, 2\) for 3 tiles",
        ),
        (
            "a.h5",
            lambda path: hdf5(path, np.zeros((1, 4), np.float32), np.array([[10, 900]]), level0_height=800),
            "coords reach 900, beyond the height of the slide, 800",
        ),
        ("a.h5", lambda path: hdf5(path, np.zeros((3, 4), np.float32), np.array(3)), "coords is no array"),
        ("a.h5", lambda path: hdf5(path, np.zeros((3, 4), np.float32), h5py.Empty("i8")), "coords is no array"),
        ("a.h5", lambda path: hdf5(path, np.float32(3)), "features is no array"),
        (
            *("a.h5", lambda path: hdf5(path, np.zeros((3, 4), np.float32), np.full((3, 2), np.nan))),
            "coords hold values that are no numbers of pixels",
        ),
        ("a.h5", _external, "lies in another file"),
        ("a.h5", _claiming, "unpacks to 4,000,000,000 bytes"),
        ("a.h5", lambda path: path.write_bytes(b"no hdf5"), "not a readable file of tile features"),
        ("a.pt", _pickled, "holds more than tensors, which is never opened"),
        ("a.pt", lambda path: torch.save({"other": torch.zeros(2, 2)}, path), "holds no tensor of features"),
        ("a.pt", lambda path: torch.save(torch.zeros(2, 2, device="meta"), path), "holds no tensor of features"),
        ("a.pt", lambda path: path.write_bytes(b"junk"), "not a file that torch wrote"),
        ("a.safetensors", lambda path: path.write_bytes(b"{}"), "not a readable file of tile features"),
        ("a.npy", lambda path: path.write_bytes(b"{}"), "not a file of tile features; known: .safetensors .h5"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, name, make, told):
    make(path := tmp_path / name)
    with pytest.raises(DataError, match=told) as caught:
        open_bag(path)
    assert str(path) in str(caught.value)


def test_rows_are_written_as_they_come_and_a_failure_leaves_nothing(tmp_path):
    rows, coords = drawn((9, 3), torch.float16)
    path = write_bag(tmp_path / "a.safetensors", rows.split(4), coords, {"side": 256}, "print", "embedded")
    bag = open_bag(path)
    assert torch.equal(bag.read(0), rows) and torch.equal(bag.coords(0), torch.as_tensor(coords))
    assert (bag.attributes, bag.encoder) == ({"side": 256}, "print")

    def broken():
        yield rows
        raise DataError("the slide is damaged there")

    with pytest.raises(DataError, match="damaged there"):
        write_bag(tmp_path / "b.safetensors", broken(), None, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_our_file_says_where_the_scanned_part_of_a_slide_begins(tmp_path):
    rows, coords = drawn((3, 2))
    attributes = {"level0_side": 512, "mpp": 0.5, "width": 9000, "height": 8000, "origin": [30, 0]}
    assert open_bag(write_bag(tmp_path / "a.safetensors", rows, coords, attributes)).attributes == attributes
    for origin in ("30", [30], [30, "0"], [float("nan"), 0], [-1, 0]):
        bag = open_bag(write_bag(tmp_path / "b.safetensors", rows, coords, {"mpp": 0.5, "origin": origin}))
        assert bag.attributes == {"mpp": 0.5}


def test_tensors_of_an_early_torch_are_read_and_run_nothing(tmp_path):
    rows, _ = drawn((3, 2))
    torch.save(rows, path := tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(open_bag(path).read(0), rows)
    torch.save({"features": Path("a")}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="holds more than tensors, which is never opened"):
        open_bag(path)
