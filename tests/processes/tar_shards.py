"""WebDataset shards for tests."""

from __future__ import annotations

import io
import tarfile

from PIL import Image


def png(value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path, members, **options):
    """A tar file of {name: bytes or text}, or of TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def simple(count, start=0):
    members = {}
    for number in range(start, start + count):
        members |= {f"{number:04d}.png": png(number), f"{number:04d}.txt": f"picture {number}"}
    return members
