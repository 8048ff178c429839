"""What docs/open-vocab-stack.md shows runs as it stands there."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mmdet")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "open-vocab-stack.md").read_text(encoding="utf-8")
SCRIPT, CONFIG = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_first_line_of_a_script():
    exec(compile(SCRIPT, "page", "exec"), {})


def test_the_config(tmp_path):
    from mmengine.config import Config

    from vladapt.registry import MODELS, TRANSFORMS

    (tmp_path / "config.py").write_text(CONFIG)
    model = Config.fromfile(str(tmp_path / "config.py")).model
    assert model.language_model.name == "bert-base-uncased" and model.classes == "raccoon, bin"
    named = set(re.findall(r"vladapt\.([A-Z]\w+)", PAGE))
    assert named >= {model.type.removeprefix("vladapt."), "GLIP"}
    assert all(name in MODELS or name in TRANSFORMS for name in named)
