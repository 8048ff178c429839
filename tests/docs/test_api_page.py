"""docs/api.md: every public name is there with a line, and the examples run as they stand."""

import importlib
import re
from pathlib import Path

import api_page
import pytest

import vladapt
from vladapt import api, testing
from vladapt.core.commands.option_index import API_FILE, api_stub_text

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOST_NAMES = 150


def section(title: str) -> str:
    """The part of the page under a heading."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL | re.IGNORECASE)[1]


def test_there_are_few_public_names_in_eight_sections():
    listed = [name for each in api.SECTIONS for name in api_page.names_of(each)]
    assert len(api.SECTIONS) == 8 and len(listed) == len(set(listed)) <= MOST_NAMES
    assert set(listed) == {*dir(vladapt), *dir(api), *dir(testing)}
    assert all(getattr(api, name) is getattr(vladapt, name) for name in dir(vladapt))


def test_the_tables_are_those_of_the_code():
    assert api_page.page() == PAGE, "make them again: python benchmarks/api_page.py > page, then docs/api.md"


def test_the_types_are_those_of_the_code():
    assert API_FILE.read_text(encoding="utf-8") == api_stub_text(), "make them again: make index"


@pytest.mark.parametrize("title", api.SECTIONS)
def test_each_name_of_a_section_stands_in_its_example(title):
    (example,) = EXAMPLE.findall(section(title))
    assert not [name for name in api_page.names_of(title) if not re.search(rf"\b{name}\b", example)]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The examples as modules, each of which begins with the names of the one before."""
    for package in ("efficientnet_lite_pytorch", "mlflow"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        before, modules = "", []
        for number, example in enumerate(EXAMPLE.findall(PAGE)):
            (folder / f"api_example_{number}.py").write_text(before + example, encoding="utf-8")
            before = f"from api_example_{number} import *\n"
            modules.append(importlib.import_module(f"api_example_{number}"))
        yield modules


def test_the_examples_run_in_their_order(examples):
    assert len(examples) == len(api.SECTIONS)
    assert examples[-1].result.metrics["adapted"]["accuracy"] > 0.5


def test_what_the_examples_define_keeps_the_contracts(examples):
    checks = {name: value for module in examples for name, value in vars(module).items() if name.startswith("test_")}
    assert set(checks) == {"test_means", "test_cosine", "test_stripes"}
    for check in checks.values():
        check()
