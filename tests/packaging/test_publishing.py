"""What a release needs: every place that names the repository follows one setting, and says what pyproject.toml says.

Workflows and the recipe are read as YAML, workflows also by actionlint where it is installed. No feedstock has tried
the recipe.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
import publish  # noqa: E402  benchmarks/publish.py

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://github.com/someone/their-vladapt"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The files that follow the setting, alone in a folder, with an address written."""
    folder = tmp_path_factory.mktemp("publishing")
    for name in ("pyproject.toml", "setup.py", publish.RECIPE, *publish.PLACES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write(folder, publish.rendered(folder, ADDRESS))
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def workflow(folder: Path, name: str = "release") -> dict:
    return yaml.safe_load((folder / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def test_every_file_agrees_with_the_setting():
    """A changed dependency, version or address needs `python benchmarks/publish.py` again."""
    changed = [name for name, text in publish.rendered(ROOT).items() if (ROOT / name).read_text("utf-8") != text]
    assert changed == []


def test_an_address_is_written_everywhere_once_and_can_be_taken_back(copy, tmp_path):
    texts = {name: (copy / name).read_text(encoding="utf-8") for name in publish.rendered(copy)}
    assert publish.rendered(copy, ADDRESS) == texts
    assert all(ADDRESS.removeprefix("https://github.com/") in text for text in texts.values())
    assert not any("HOST/OWNER" in text for text in texts.values())
    again = tmp_path / "again"
    shutil.copytree(copy, again)
    assert publish.rendered(again, "") == publish.rendered(ROOT, "")


def test_links_of_the_package_and_badges_are_those_of_the_address(copy):
    assert set(project(copy)["urls"]) == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(link.startswith(ADDRESS) for link in project(copy)["urls"].values())
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert readme.count("[![") == 4 and readme.startswith("# vladapt\n\n[![tests]")
    notebooks = re.findall(r"colab\.research\.google\.com/github/([^)]+)\)", (copy / publish.NOTEBOOKS).read_text())
    assert {each.removeprefix("someone/their-vladapt/blob/main/") for each in notebooks} == {
        f"docs/notebooks/{file.name}" for file in (ROOT / "docs" / "notebooks").glob("*.ipynb")
    }


def test_an_index_is_given_a_description_without_relative_links(copy, monkeypatch):
    setup = {}
    monkeypatch.setattr("setuptools.setup", lambda **keywords: setup.update(keywords))
    monkeypatch.chdir(copy)
    runpy.run_path(str(copy / "setup.py"))
    links = re.findall(r"\]\(([^)]+)\)", setup["long_description"])
    assert len(links) > 20 and all(link.startswith("https://") for link in links)
    assert f"{ADDRESS}/raw/main/docs/pictures/report.png" in links and f"{ADDRESS}/blob/main/docs/README.md" in links
    assert setup["long_description_content_type"] == "text/markdown" and "readme" in project(copy)["dynamic"]


def test_a_release_is_published_without_a_token_and_from_its_repository_alone(copy):
    build, upload = workflow(copy)["jobs"]["build"], workflow(copy)["jobs"]["publish"]
    assert workflow(copy)[True] == {"release": {"types": ["published"]}}  # YAML reads `on` as true
    assert "make dist" in [step.get("run") for step in build["steps"]]
    assert upload["needs"] == "build" and upload["permissions"] == {"id-token": "write"}
    assert upload["if"] == "github.repository == 'someone/their-vladapt'"
    assert upload["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "secrets." not in (copy / publish.WORKFLOW).read_text() and workflow(ROOT)["permissions"] == {
        "contents": "read"
    }


@pytest.mark.parametrize("name", ["ci", "release"])
def test_every_step_of_a_workflow_runs_or_uses_something_and_every_target_is_there(name):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = workflow(ROOT, name)["jobs"]
    for job in jobs.values():
        assert job["runs-on"] and {job.get("needs", "")} <= {"", *jobs}
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert set(re.findall(r"\bmake ([\w-]+)", step.get("run", ""))) <= targets
            assert re.fullmatch(r"[\w-]+/[\w-]+@\S+", step.get("uses", "a/b@v1"))


def test_actionlint_finds_nothing_before_and_after_an_address_is_written(copy):
    actionlint = shutil.which("actionlint") or pytest.skip("actionlint is not installed")
    files = [*(ROOT / ".github" / "workflows").glob("*.yml"), copy / publish.WORKFLOW]
    done = subprocess.run([actionlint, "-no-color", *map(str, files)], capture_output=True, text=True)
    assert len(files) == 3 and (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_conda_recipe_wants_what_the_package_wants(copy):
    recipe = yaml.safe_load((copy / publish.RECIPE).read_text(encoding="utf-8"))
    package = project(copy)
    assert recipe["context"]["version"] == package["version"]
    assert recipe["about"]["license"] == package["license"] and recipe["about"]["repository"] == ADDRESS
    assert f">={recipe['context']['python_min']}" == package["requires-python"]
    run = {Requirement(each).name: Requirement(each).specifier for each in recipe["requirements"]["run"][1:]}
    wanted = {Requirement(each).name: Requirement(each).specifier for each in package["dependencies"]}
    for name in publish.ONE_OPENCV:
        assert wanted.pop(name) == run["py-opencv"]
    assert run == {publish.CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}


def test_the_recipe_names_the_sdist_that_was_released(copy, tmp_path):
    sdist = tmp_path / "vladapt.tar.gz"
    sdist.write_bytes(b"abc")
    recipe = yaml.safe_load(publish.rendered(copy, sdist=sdist)[publish.RECIPE])
    assert recipe["source"]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_extras_name_extras_that_are_there():
    extras = project(ROOT)["optional-dependencies"]
    for requirements in extras.values():
        for requirement in map(Requirement, requirements):
            assert requirement.name != "vladapt" or requirement.extras <= set(extras)
