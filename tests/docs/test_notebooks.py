"""The notebooks: every cell runs, in order, as a kernel would run it; none holds output of an earlier run."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"


def cells_of(notebook: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def execute(source: str, space: dict) -> object:
    """Run a cell; the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space) if last else None


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """executed(name) -> the names that its cells defined, and the values of their last lines."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> tuple[dict, list]:
        space: dict = {"__name__": "__main__"}
        sources = ["".join(cell["source"]) for cell in cells_of(FOLDER / f"{name}.ipynb", "code")]
        return space, [execute(source, space) for source in sources]

    return run


@pytest.mark.thorough
def test_own_folder(executed, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    space, values = executed("own_folder")
    assert values[0] == ["rings", "squares", "stripes"] and values[1]["adapted"] > values[1]["zero_shot"]
    rows = list(space["found"].rows())
    assert len(rows) == 2 and {row["label"] for row in rows} <= {"rings", "squares", "stripes"}
    assert (space["result"].run / "report.html").is_file() and "report.html" in capsys.readouterr().out


def test_features_and_compare(executed, capsys):
    space, _ = executed("features_and_compare")
    methods = {row["adapter"] for row in space["comparison"].rows}
    assert {"zero-shot", "linear-probe", "tip-adapter", "proker"} <= methods
    assert space["logits"].shape == (260, 5)
    assert "proker         4 shots" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", sorted(FOLDER.glob("*.ipynb")), ids=lambda file: file.stem)
def test_each_is_valid_explained_and_without_output(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells_of(notebook, "code"))
    assert len(cells_of(notebook, "markdown")) >= 3
    assert f"({notebook.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
