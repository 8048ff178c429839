"""What an extra takes on disk: its packages with all that they need, each file once."""

from __future__ import annotations

from importlib.metadata import Distribution

import install_sizes
import pytest


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installed: app, which needs cv of one extra and base always; cv and its twin hold the same file."""

    def install(name: str, requires: list[str], files: dict[str, int]) -> None:
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", "Version: 1", "Provides-Extra: video", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n\n")
        for file, size in files.items():
            (tmp_path / file).write_bytes(b"." * size)
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        installed[name] = Distribution.at(info)

    installed: dict[str, Distribution] = {}
    install("base", [], {"base.py": 2**20, "base.pyc": 2**22})
    install("cv", ["base", "twin ; extra == 'more'"], {"cv2.so": 2**21})
    install("twin", [], {"cv2.so": 2**21})
    install("app", ["base", "cv ; extra == 'video'", "cv[more] ; extra == 'all'", "gone ; extra == 'x'"], {})
    monkeypatch.setattr(install_sizes, "_installed", installed.get)
    install_sizes._files.cache_clear()
    yield
    install_sizes._files.cache_clear()


@pytest.mark.parametrize(
    ("extra", "names", "size"),
    [
        ("", {"app", "base"}, 1),
        ("video", {"app", "base", "cv"}, 3),
        ("all", {"app", "base", "cv", "twin"}, 3),
        ("x", {"app", "base", "gone"}, 1),
    ],
)
def test_packages_of_an_extra_and_their_files_once_without_byte_code(packages, extra, names, size):
    assert install_sizes.needed("app") | install_sizes.needed("app", extra) == names
    assert install_sizes.mebibytes(names) == size
