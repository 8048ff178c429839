"""Mutations of valid files: of their bytes, of what their JSON says, and of the cells of their tables.

All chance comes from the `random.Random` that is given; hypothesis gives one whose examples are the same in every run.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

LIMITS = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, -(2**31), 2**63 - 1)
PACKINGS = ("<B", "<H", ">H", "<I", ">I", "<q", ">q")
MANY_DIGITS = "9" * 400
"""Stands for a number that Python's JSON cannot write as one."""
NESTED = 5_000

VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 0,
    lambda: 0.5,
    lambda: 2**31,
    lambda: 10**9,
    lambda: 2**63,
    lambda: 1e308,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: MANY_DIGITS,
    lambda: "",
    lambda: "x",
    lambda: "\x00",
    lambda: "\x1b[2J\nx",
    lambda: "\ud800",
    lambda: "../../etc/passwd",
    lambda: "/dev/zero",
    lambda: "l" * 5000,
    list,
    dict,
    lambda: [[]],
    lambda: [1, "2", None],
    lambda: {"id": None},
    lambda: [1e9] * 8,
    lambda: [-1e18, 1e18, 1e18, -1e18, 0, 1e18],
    lambda: _nested(50),
)


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Some bytes flipped, cut off, repeated, put in, or made a number at the edge of its range."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(len(content)) if content else 0
        if random.random() < 0.5:  # headers are where numbers stand that allocate
            place = min(place, random.randrange(400))
        _change(content, min(place, len(content)), random)
    return bytes(content)


def _change(content: bytearray, place: int, random: Random) -> None:
    kind = random.randrange(6)
    if kind == 0 and place < len(content):
        content[place] ^= 1 << random.randrange(8)
    elif kind == 1:
        packing = random.choice(PACKINGS)
        packed = struct.pack(packing, random.choice(LIMITS) % 2 ** (8 * struct.calcsize(packing) - 1))
        content[place : place + len(packed)] = packed
    elif kind == 2:
        del content[place:]
    elif kind == 3:
        del content[place : place + random.randrange(1, 40)]
    elif kind == 4:
        content[place:place] = content[place : place + random.randrange(1, 40)]
    else:
        content[place:place] = random.choice((b"\0", b"\xff\xff", b"9" * 30, b"\n", b'"', b"{", b"\xef\xbb\xbf"))


def mutate_json(content: Any, random: Random) -> bytes:
    """JSON with values of other types, keys dropped, renamed and given twice, entries repeated, and deep nesting."""
    value = json.loads(json.dumps(content))
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _changed(value, random)
    text = json.dumps(value).replace(f'"{MANY_DIGITS}"', MANY_DIGITS)
    kind = random.randrange(12)
    if kind == 0:
        text = "[" * NESTED + text
    elif kind == 1:
        text = text.replace("{", '{"id": 1, "id": 2, ', 1)
    elif kind == 2:
        text = text[: random.randrange(len(text) + 1)]
    return mutate_bytes(text.encode(), random) if kind == 3 else text.encode()


def _changed(value: Any, random: Random) -> Any:
    """The value with one part of it, at any depth, replaced, dropped, renamed or repeated."""
    inside = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if _is_list(value) else []
    if not inside or random.random() < 0.25:
        return random.choice(VALUES)()
    key, part = random.choice(inside)
    kind = random.randrange(6)
    if kind == 0 and isinstance(value, dict):
        return {name: other for name, other in value.items() if name != key}
    if kind == 1 and isinstance(value, dict):
        return {("other" if name == key else name): other for name, other in value.items()}
    if kind == 2 and isinstance(value, list):
        return [*value, part]
    if kind == 3 and isinstance(value, list):
        return value[:key] + value[key + 1 :]
    changed = _changed(part, random)
    if isinstance(value, dict):
        return {**value, key: changed}
    return [*value[:key], changed, *value[key + 1 :]]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def mutate_text(text: str, random: Random) -> bytes:
    """A table or a list with lines repeated, dropped and cut, cells replaced, other encodings and odd bytes."""
    lines = text.splitlines()
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(lines)) if lines else 0
        kind = random.randrange(6)
        if kind == 0 and lines:
            lines.insert(place, lines[place])
        elif kind == 1 and lines:
            del lines[place]
        elif kind == 2 and lines:
            cut = random.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:cut] + random.choice(('"', ",", "\t", "\0", "\ufeff", "9" * 400))
        elif kind == 3 and lines:
            cells = lines[place].split(",")
            cells[random.randrange(len(cells))] = random.choice(
                (
                    "",
                    "nan",
                    "-1",
                    MANY_DIGITS,
                    "[" * 3000,
                    "[1, {}]",
                    "../x",
                    "\x1b[2J",
                    "x" * 200_000,
                    "1|2|3",
                    '"a\nb"',
                )
            )
            lines[place] = ",".join(cells)
        else:
            lines.insert(place, random.choice((",,,,,,,", '"open', "", "\x00\x00", "- &a [*a]", "x: *a", "é" * 50)))
    content = "\n".join(lines)
    kind = random.randrange(8)
    if kind == 0:
        return content.encode("utf-16")
    return mutate_bytes(content.encode(), random) if kind == 1 else content.encode()


def mutate_file(path: Path, random: Random) -> None:
    """Mutate a file as its kind asks."""
    data = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix == ".json" and random.random() < 0.85:
        path.write_bytes(mutate_json(json.loads(data), random))
    elif suffix == ".jsonl" and random.random() < 0.7:
        lines = data.splitlines()
        place = random.randrange(len(lines))
        lines[place] = mutate_json(json.loads(lines[place]), random).replace(b"\n", b" ")
        path.write_bytes(b"\n".join(lines))
    elif suffix in (".json", ".jsonl", ".csv", ".tsv", ".txt", ".yaml", ".xml") and random.random() < 0.7:
        path.write_bytes(mutate_text(data.decode(), random))
    else:
        path.write_bytes(mutate_bytes(data, random))
