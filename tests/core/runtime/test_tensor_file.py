"""Tensors with a JSON header, as runs keep them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vladapt.core.errors import DataError
from vladapt.core.runtime.files import HEADER, read_tensors, write_tensors


def test_what_is_written_is_read(tmp_path):
    columns = torch.arange(6.0).view(2, 3).T  # not contiguous
    path = write_tensors(tmp_path / "kept.safetensors", {"columns": columns}, {"format": 1, "names": ["a", "b"]})
    header, tensors = read_tensors(path)
    assert header == {"format": 1, "names": ["a", "b"]} and torch.equal(tensors["columns"], columns)


@pytest.mark.parametrize("header", ["[" * 100_000, "{"], ids=["deep", "cut"])
def test_a_damaged_header_is_one_line(tmp_path, header):
    path = tmp_path / "kept.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={HEADER: header})
    with pytest.raises(DataError, match=r"kept\.safetensors: not a readable safetensors file"):
        read_tensors(path)


def test_no_such_file_is_one_line(tmp_path):
    (tmp_path / "kept.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_tensors(tmp_path / "kept.safetensors")
