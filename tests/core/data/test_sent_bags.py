"""Bags as requests bring them: no more is unpacked than is allowed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.data.array_files import ArrayFile
from vladapt.core.data.sent_bags import SentBag
from vladapt.core.errors import DataError


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed(path: Path, **members: np.ndarray) -> Path:
    """A zip whose members have these names, "_" for "."."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in members.items():
            archive.writestr(name.replace("_", "."), npy(array))
    return path


def test_a_member_without_the_ending_is_never_unpacked_in_place_of_the_array(tmp_path):
    small, large = np.ones((3, 4), np.float32), np.zeros((9_000, 4), np.float32)
    path = packed(tmp_path / "a.npz", features_npy=small, features=large)
    (rows,), places = SentBag(path, 4, 1 << 10).read()
    np.testing.assert_array_equal(rows, small)
    assert places is None
    np.testing.assert_array_equal(ArrayFile(path).load()["features"], small)


def test_a_member_without_the_ending_alone_is_no_array(tmp_path):
    path = packed(tmp_path / "a.npz", features=np.ones((3, 4), np.float32), other_npy=np.ones(1))
    with pytest.raises(DataError, match="lacks the array 'features'"):
        SentBag(path, 4, 1 << 10)
    with pytest.raises(DataError, match="lacks the array 'features'; give a file that has it"):
        ArrayFile(path).load(["features"])
