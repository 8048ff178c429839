"""Files are read without trust: regular ones, of bounded size, as text, JSON or YAML."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from vladapt.core.errors import DataError
from vladapt.core.runtime import reading
from vladapt.core.runtime.reading import check_regular, parse_json, read_json, read_text, read_yaml, text_lines

READS = [check_regular, read_text, read_json, read_yaml, lambda path: list(text_lines(path))]


@pytest.fixture
def pipe(tmp_path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("read", READS)
def test_what_is_no_file_is_not_opened(read, pipe, tmp_path):
    (tmp_path / "linked").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    for path, what in (
        (pipe, "a pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
        (tmp_path / "linked", "a device"),
    ):
        with pytest.raises(DataError, match=rf"{path.name}: cannot be read \({what}, not a file\); check"):
            read(path)
    for name in ("none", "circle", "nul\0"):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name)


def test_a_socket_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        with pytest.raises(DataError, match="a socket, not a file"):
            read_text(Path("s"))


def test_a_file_above_the_bound_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 11)
    assert read_text(tmp_path / "a.txt", most=11) == "x" * 11
    with pytest.raises(DataError, match="larger than 10 bytes"):
        read_text(tmp_path / "a.txt", most=10)


@pytest.mark.parametrize(
    ("content", "why"), [(b"caf\xe9", "byte 3"), ("é".encode("utf-16"), "but UTF-16"), (b"\xfe\xff\0a", "but UTF-16")]
)
def test_other_encodings_are_named(tmp_path, content, why):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a.csv: cannot be read \(it is not UTF-8 text, {why}\); save it as UTF-8"):
        read_text(tmp_path / "a.csv")


def test_text_has_no_mark_and_one_kind_of_line_end(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n"
    assert list(text_lines(tmp_path / "a.txt")) == ["a\r\n", "b\r", "c\n"]


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 10)
    (tmp_path / "a.txt").write_text("short\n" + "x" * 11)
    with pytest.raises(DataError, match=r"a.txt line 2: longer than 10 characters"):
        list(text_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("9" * 400, "of 400 digits"),
        ("[-" + "9" * 5000 + "]", "of 5001 digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice"),
        ("[1", "Expecting"),
    ],
)
def test_json_that_is_none_or_has_no_end_is_one_line(text, why):
    with pytest.raises(DataError, match=rf"^here: not valid JSON .*{why}.*; correct it$") as caught:
        parse_json("here", text)
    assert len(str(caught.value)) < 200


def test_halves_of_characters_are_replaced_and_whole_ones_kept():
    text = r'["\ud83d\ude00", "x\ud83dy", "\ude00", "\\ud83d", "A\n"]'
    assert parse_json("here", text) == ["😀", "x?y", "?", "\\ud83d", "A\n"]


def test_other_json_is_what_python_reads():
    value = {"a": [1, -2.5, None, True, 10**39, float("inf")], "é": {"": "x"}}
    assert parse_json("here", json.dumps(value)) == value


def yaml_bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"names: *a{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (yaml_bomb(9), "stands for more than 200,000 values"),
        ("a: &a {<<: *a}", "holds itself"),
        ("a: &a [*a]", "holds itself"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: 2001-99-99", "month must be"),
        ("a: !!bool q", "q"),
        ("a: " + "9" * 5000, "of 5000 digits"),
        ("[" * 3000, "nested too deep"),
        ("{[1]: 2}", "unhashable"),
        ("a: 'open", "end of stream"),
    ],
)
def test_yaml_that_has_no_end_or_is_none_is_one_line(tmp_path, text, why):
    (tmp_path / "a.yaml").write_text(text)
    started = time.monotonic()
    with pytest.raises(DataError, match=rf"a.yaml: cannot be read \(.*{why}"):
        read_yaml(tmp_path / "a.yaml")
    assert time.monotonic() - started < 10


def test_yaml_may_name_values_again(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &b {x: 1}\nmore: {<<: *b, y: 2}\nnames: [a, b]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"base": {"x": 1}, "more": {"x": 1, "y": 2}, "names": ["a", "b"]}
    (tmp_path / "b.yaml").write_text("")
    assert read_yaml(tmp_path / "b.yaml") is None
