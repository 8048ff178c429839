"""benchmarks/changed_tests.py: what `make check` runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import changed_tests
import pytest
from changed_tests import changed_files, nearest_tests

TESTS = {
    "tests/core/data/test_images.py": "from vladapt.core.data.images import decode_image\n",
    "tests/core/data/test_tables.py": "from vladapt.core.data import images, tables\n",
    "tests/core/data/test_image_limits.py": "from vladapt.core.data.image_limits import most_pixels\n",
    "tests/cli/test_fit.py": "def test_fit():\n    from vladapt.core.data.images import decode_image\n",
    "tests/benchmarks/test_house.py": "from house import Row\n",
    "tests/docs/test_links.py": "",
    "tests/packaging/test_packaging.py": "",
}
FOLDER = ["core/data/test_image_limits", "core/data/test_images", "core/data/test_tables"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["core/data/images.py"], ["core/data/test_images", "cli/test_fit", "core/data/test_tables"]),
        (["core/data/tables.py"], ["core/data/test_tables"]),
        (["core/data/splits.py"], FOLDER),
        (["core/data/names.json"], FOLDER),
        (["tests/core/data/drawn.py"], FOLDER),
        (["tests/cli/test_fit.py", "core/data/tables.py"], ["cli/test_fit", "core/data/test_tables"]),
        (["benchmarks/house.py"], ["benchmarks/test_house"]),
        (["docs/data.md", "README.md"], ["docs/test_links"]),
        (["pyproject.toml"], ["packaging/test_packaging"]),
        ([], []),
    ],
    ids=str,
)
def test_the_nearest_come_first(changed, expected):
    assert nearest_tests(changed, TESTS) == [f"tests/{name}.py" for name in expected]


def test_what_changed_since_a_branch_was_left_is_of_this_branch_and_of_the_work_tree(tmp_path):
    def git(*words):
        author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    def commit(name):
        (tmp_path / name).write_text(name)
        git("add", name)
        git("commit", "-m", name)

    git("init")
    commit("before.py")
    git("checkout", "-b", "mine")
    commit("committed.py")
    git("checkout", "main")
    commit("of_others.py")
    git("checkout", "mine")
    (tmp_path / "before.py").write_text("changed")
    (tmp_path / "new.py").write_text("")
    assert changed_files("main", tmp_path) == ["before.py", "committed.py", "new.py"]
    with pytest.raises(SystemExit, match=r"changed_tests: since 'nowhere': .*nowhere"):
        changed_files("nowhere", tmp_path)


def test_make_runs_them_after_lint():
    makefile = Path(changed_tests.ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^check: lint\n\t.*changed_tests\.py \$\(BASE\).*\$\(SUITE\)", makefile, re.MULTILINE)
