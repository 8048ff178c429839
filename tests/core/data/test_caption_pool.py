"""A pool of captions, from a text file or from pairs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vladapt import DataError
from vladapt.core.data.caption_pool import read_caption_pool


def test_lines_once_each_in_order_and_without_blanks(tmp_path):
    (tmp_path / "pool.txt").write_text("a  red square\n\n a dog\na red square\n", encoding="utf-8")
    assert read_caption_pool(tmp_path / "pool.txt") == ("a red square", "a dog")


def test_pairs_give_all_their_captions(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,a dog\na.png,a hound\nb.png,a cat\n")
    assert sorted(read_caption_pool(tmp_path / "pairs.csv")) == ["a cat", "a dog", "a hound"]


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: cannot be read"):
        read_caption_pool(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.txt: holds no caption"):
        read_caption_pool(tmp_path / "empty.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_caption_pool(tmp_path / "bytes.txt")
