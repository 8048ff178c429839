"""The wheel and the sdist hold what the repository holds, and an installed wheel works from anywhere."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "adapters", "domains")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """dist/ of a copy of the repository in a folder of another name."""
    pytest.importorskip("build")
    copy = tmp_path_factory.mktemp("packaging") / "some-other-name"
    for file in repository_files():
        target = copy / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return copy / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A folder that the wheel is installed into, away from the repository."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert b"Root-Is-Purelib: true" in wheel.read("vladapt-0.1.0.dist-info/WHEEL")  # pip, too, would only unpack it
        wheel.extractall(target)
    return target


def repository_files() -> list[Path]:
    """Files under version control or about to be, so that what lies about in a checkout does not count."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def package_files() -> set[str]:
    """Every module and data file of the rooms, and the modules at the root, as paths inside the package."""
    found = {
        str(f.relative_to(ROOT))
        for f in repository_files()
        if f.relative_to(ROOT).parts[0] in ROOMS
        and (f.parent.name == "sample" or f.suffix in (".py", ".json", ".txt", ".j2", ".html", ".css", ".js"))
    }
    root = (f.name for pattern in ("*.py", "*.pyi", "py.typed") for f in ROOT.glob(pattern))
    return found | {name for name in root if name != "setup.py"}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    inside = {name.removeprefix("vladapt/") for name in names if name.startswith("vladapt/")}
    assert inside == package_files()
    assert {name.split("/")[0] for name in names} == {"vladapt", "vladapt-0.1.0.dist-info"}


def test_the_sdist_holds_tests_docs_and_examples(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = archive.getnames()
    inside = {name.split("/", 1)[1] for name in names if "/" in name}
    wanted = {
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "Makefile",
        "tests/conftest.py",
        "tests/compatibility/written_at_94fbb0e/README.txt",
        "tests/compatibility/written_at_94fbb0e/clip.safetensors.xz",
        "tests/compatibility/written_at_94fbb0e/indexes/texts/index.faiss",
        "examples/few_shot_folder.py",
        "docs/parity.md",
        "benchmarks/tip_search.py",
    }
    assert wanted <= inside
    assert package_files() <= inside


def test_an_installed_wheel_fits_from_anywhere(installed, tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    labels = np.arange(3).repeat(30)
    features = tmp_path / "features.npz"
    np.savez(
        features,
        image_features=centres[labels] + 0.3 * rng.normal(size=(90, 16)),
        labels=labels,
        text_features=centres,
        class_names=np.array(["a", "b", "c"]),
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = subprocess.run(
        [sys.executable, "-c", "import vladapt; print(vladapt.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    command = [sys.executable, "-m", "vladapt", "fit", "--features", str(features), "--shots", "4", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["adapted"]["accuracy"] > 0.8
    assert (tmp_path / summary["run"] / "report.html").is_file()


def test_the_root_package_has_no_side_effects():
    code = "import sys; before = set(sys.modules); import vladapt; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout)
    assert "core" not in loaded
    assert [name for name in loaded if name.startswith("vladapt")] == ["vladapt", "vladapt.core", "vladapt.core.lazy"]
    others = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert others == {"vladapt"} and len(loaded) < 40, loaded
