"""What depends on the repository's address, written everywhere from one setting: `repository` in pyproject.toml.

    python benchmarks/publish.py                                        # says which files differ from the setting
    python benchmarks/publish.py https://github.com/OWNER/vladapt       # sets it, and writes them
    python benchmarks/publish.py --sdist dist/vladapt-0.1.0.tar.gz      # the conda recipe of a released sdist

The address is written into the package's links, the badges and installation lines of the pages, the Colab links of
the notebooks, CITATION.cff, mkdocs.yml, and the workflow that publishes a release, which does so in that repository
alone. While it is empty there are no badges and no links, the lines name https://HOST/OWNER/vladapt, and nothing is
published. The recipe for conda-forge is made from the dependencies in pyproject.toml.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "https://HOST/OWNER/vladapt"
ADDRESS = re.compile(r"https://[\w.-]+(/[\w.-]+){2,}")
RECIPE = "conda/recipe.yaml"
WORKFLOW = ".github/workflows/release.yml"
NOTEBOOKS = "docs/notebooks/README.md"
NO_SDIST = "0" * 64
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "opencv-python": "py-opencv"}
"""Package of the index -> package of conda-forge, where the names differ."""
ONE_OPENCV = ("opencv-contrib-python-headless",)
"""conda-forge has one OpenCV, with what the other wheels hold."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help=f"of the repository, such as {PLACEHOLDER}")
    parser.add_argument("--sdist", type=Path, help="a released sdist, whose sha256 the conda recipe names")
    arguments = parser.parse_args()
    if arguments.address and not ADDRESS.fullmatch(arguments.address):
        parser.error(f"'{arguments.address}' is no address of a repository, such as https://github.com/OWNER/vladapt")
    written = rendered(ROOT, arguments.address, arguments.sdist)
    changed = [name for name, text in written.items() if not _same(ROOT / name, text)]
    write = arguments.address is not None or arguments.sdist is not None
    for name in changed:
        print(f"{'wrote' if write else 'differs from the setting:'} {name}")
        if write:
            (ROOT / name).write_text(written[name], encoding="utf-8")
    return 0 if write or not changed else 1


def rendered(root: Path, address: str | None = None, sdist: Path | None = None) -> dict[str, str]:
    """Each file as the setting wants it.

    Args:
        address: a new one; None: that of pyproject.toml.
        sdist: file that the conda recipe names; None: the sha256 that the recipe has.
    """
    project_file = root / "pyproject.toml"
    text = project_file.read_text(encoding="utf-8")
    if address is not None:
        text = re.sub(r'(?m)^(repository = )".*"', rf'\1"{address}"', text)
    address = tomllib.loads(text)["tool"]["vladapt"]["repository"].rstrip("/")
    files = {"pyproject.toml": _project(text, address)}
    for name, change in PLACES.items():
        files[name] = change((root / name).read_text(encoding="utf-8"), address)
    sha256 = NO_SDIST if sdist is None else hashlib.sha256(sdist.read_bytes()).hexdigest()
    if sdist is None and (root / RECIPE).is_file():
        sha256 = re.search(r"sha256: (\w{64})", (root / RECIPE).read_text(encoding="utf-8")).group(1)
    files[RECIPE] = conda_recipe(tomllib.loads(files["pyproject.toml"])["project"], address, sha256)
    return files


def _project(text: str, address: str) -> str:
    """[project.urls] before the scripts."""
    text = re.sub(r"(?m)^\[project\.urls\]\n(?:\w+ = .*\n)*\n?", "", text)
    if not address:
        return text
    links = {"Homepage": address, "Documentation": f"{address}/blob/main/docs/README.md"}
    links |= {"Changelog": f"{address}/blob/main/CHANGELOG.md", "Issues": f"{address}/issues"}
    table = "".join(f'{name} = "{link}"\n' for name, link in links.items())
    return text.replace("[project.scripts]", f"[project.urls]\n{table}\n[project.scripts]")


def _installation(text: str, address: str) -> str:
    return re.sub(r"git\+https://[^\s'@]+", f"git+{address or PLACEHOLDER}", text)


def _readme(text: str, address: str) -> str:
    """The badges below the title, and the line that installs from the repository."""
    text = _installation(re.sub(r"(?m)^\[!\[.*\n\n?", "", text), address)
    if not address:
        return text
    badges = {
        "tests": (f"{address}/actions/workflows/ci.yml/badge.svg", f"{address}/actions/workflows/ci.yml"),
        "version": ("https://img.shields.io/pypi/v/vladapt", "https://pypi.org/project/vladapt/"),
        "Python": ("https://img.shields.io/pypi/pyversions/vladapt", "https://pypi.org/project/vladapt/"),
        "licence": ("https://img.shields.io/pypi/l/vladapt", f"{address}/blob/main/LICENSE"),
    }
    lines = "".join(f"[![{name}]({image})]({link})\n" for name, (image, link) in badges.items())
    return text.replace("# vladapt\n\n", f"# vladapt\n\n{lines}\n", 1)


def _notebooks(text: str, address: str) -> str:
    """A link behind each notebook's name; Colab opens those of GitHub."""
    text = re.sub(r" · \[Colab\]\([^)]*\)", "", text)
    if not address.startswith("https://github.com/"):
        return text
    colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    return re.sub(r"(\[\w+\.ipynb\]\((\w+\.ipynb)\))", rf"\1 · [Colab]({colab}/blob/main/docs/notebooks/\2)", text)


def _citation(text: str, address: str) -> str:
    text = re.sub(r"(?m)^repository-code: .*\n", "", text)
    return text.replace("license:", f'repository-code: "{address}"\nlicense:', 1) if address else text


def _site(text: str, address: str) -> str:
    text = re.sub(r"(?m)^repo_url: .*\n", "", text)
    return text.replace("docs_dir:", f"repo_url: {address}\ndocs_dir:", 1) if address else text


def _workflow(text: str, address: str) -> str:
    """It publishes in the repository of that address, not in its forks."""
    name = "/".join(address.split("/")[3:])
    return re.sub(r"(?m)^(    if: github\.repository == )'.*'", rf"\1'{name}'", text)


PLACES: dict[str, Callable[[str, str], str]] = {
    "README.md": _readme,
    NOTEBOOKS: _notebooks,
    "CITATION.cff": _citation,
    "mkdocs.yml": _site,
    WORKFLOW: _workflow,
}


def conda_recipe(project: dict, address: str, sha256: str) -> str:
    """A recipe of conda-forge's present format, of the sdist on the index."""
    lower = project["requires-python"].removeprefix(">=")
    needs = [Requirement(each) for each in project["dependencies"]]
    run = [_conda_requirement(each) for each in needs if each.name not in ONE_OPENCV]
    lines = "".join(f"    - {each}\n" for each in run)
    about = f"  homepage: {address}\n  repository: {address}\n" if address else ""
    return f"""\
# Made by `python benchmarks/publish.py`, of the dependencies in pyproject.toml. Untried: no feedstock has it yet.
# yaml-language-server: $schema=https://raw.githubusercontent.com/prefix-dev/recipe-format/main/schema.json
schema_version: 1
context:
  name: vladapt
  version: "{project["version"]}"
  python_min: "{lower}"
package:
  name: ${{{{ name }}}}
  version: ${{{{ version }}}}
source:
  url: https://pypi.org/packages/source/v/${{{{ name }}}}/${{{{ name }}}}-${{{{ version }}}}.tar.gz
  sha256: {sha256}
build:
  number: 0
  noarch: python
  script: ${{{{ PYTHON }}}} -m pip install . -vv --no-deps --no-build-isolation
  python:
    entry_points:
      - vladapt = vladapt.__main__:main
requirements:
  host:
    - python ${{{{ python_min }}}}.*
    - pip
    - setuptools >=68
    - wheel
  run:
    - python >=${{{{ python_min }}}}
{lines}tests:
  - python:
      imports:
        - vladapt
        - vladapt.api
      pip_check: false  # conda-forge's OpenCV is no wheel of the index
      python_version: ${{{{ python_min }}}}.*
  - script:
      - vladapt --help
about:
{about}  summary: {project["description"]}
  license: {project["license"]}
  license_file: LICENSE
extra:
  recipe-maintainers: []
"""


def _conda_requirement(requirement: Requirement) -> str:
    name = CONDA_NAMES.get(requirement.name, requirement.name)
    bounds = sorted((str(each) for each in requirement.specifier), reverse=True)
    return f"{name} {','.join(bounds)}"


def _same(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
