"""Who may import what of the package: layers inside it, and the public page for everybody else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vladapt.api
from vladapt.core.registry import adapter_class, load_domain

ROOT = Path(__file__).parents[2]
PUBLIC = {"vladapt", "vladapt.api", "vladapt.testing"}
OURS = re.compile(r"vladapt\b(?!_)")
BEFORE = {
    "old_means.py": """
        from dataclasses import dataclass

        from vladapt.core.contracts.adapter import Adapter, FitReport
        from vladapt.core.contracts.options import option


        @dataclass(eq=False, kw_only=True)
        class OldMeans(Adapter):
            weight: float = option(0.5, "a weight", low=0, high=1)

            def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
                return FitReport("old-means")

            def _logits(self, batch):
                return batch.unit
    """,
    "old_stripes.py": """
        from vladapt import Domain
        from vladapt.core.contracts.domain import DomainData
        from vladapt.core.data.detect import read_any


        class OldStripes(Domain):
            name = "old-stripes"

            def read(self, path, task, **options):
                return read_any(path, **options)

            def sample(self, task):
                return DomainData([], (), None)

            def templates(self, task):
                return ["a picture of {} stripes."]
    """,
}


def of_third_parties() -> Iterator[tuple[str, str]]:
    """Names of files, and their text: examples, the toy package, and the examples of CONTRIBUTING and of the pages."""
    for file in [*ROOT.glob("examples/*.py"), *ROOT.glob("tests/core/testing/third_party/**/*.py")]:
        yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
    for page in [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        yield from ((f"{page.name}, example {number}", block) for number, block in enumerate(blocks, start=1))


def imported(text: str) -> Iterator[str]:
    """Modules of ours that a text imports, or imports names from."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and not node.level and OURS.match(node.module):
            yield node.module
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if OURS.match(each.name))


def test_layers_import_downwards(capsys, monkeypatch):
    linter = pytest.importorskip("importlinter.cli")
    monkeypatch.syspath_prepend(str(ROOT))  # as lint-imports does
    assert linter.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0, capsys.readouterr().out


def test_third_parties_and_examples_use_the_public_page_alone():
    texts = dict(of_third_parties())
    assert "CONTRIBUTING.md, example 1" in texts and len(texts) > 20
    others = {place: sorted(set(imported(text)) - PUBLIC) for place, text in texts.items()}
    of_open_vocab = {"vladapt.domains.open_vocab", "vladapt.domains.open_vocab.text_embeddings"}  # before mmdet
    assert not {place: modules for place, modules in others.items() if set(modules) - of_open_vocab}


@pytest.mark.parametrize("kind", ["adapter", "domain"])
def test_a_plug_in_of_the_form_taught_before_still_loads(kind, tmp_path, monkeypatch):
    info = tmp_path / "vladapt_old-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vladapt-old\nVersion: 0.1\n")
    points = (
        "[vladapt.adapters]\nold-means = old_means:OldMeans\n[vladapt.domains]\nold-stripes = old_stripes:OldStripes\n"
    )
    (info / "entry_points.txt").write_text(points)
    for name, text in BEFORE.items():
        lines = text.splitlines()[1:]
        (tmp_path / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = adapter_class("old-means")() if kind == "adapter" else load_domain("old-stripes")
    assert loaded.name == {"adapter": "old-means", "domain": "old-stripes"}[kind]


@pytest.mark.parametrize(("name", "taken", "made"), [("whole_number", 3.0, 3), ("spoken", "sea_ice", "sea ice")])
def test_a_name_that_was_public_works_and_warns(name, taken, made):
    with pytest.warns(DeprecationWarning, match=f"vladapt.api.{name} is not public any more"):
        assert getattr(vladapt.api, name)(taken) == made
    assert name not in dir(vladapt.api)


@pytest.mark.parametrize("name", sorted(" ".join(vladapt.api.OLDER.values()).split()))
def test_every_older_name_still_leads_somewhere(name):
    with pytest.warns(DeprecationWarning):
        assert callable(getattr(vladapt.api, name))
