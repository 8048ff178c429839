"""Of the site: pages at the root of the repository are pages of it too, links to code are words, and cells hold `|`.

mkdocs reads docs/ alone, while these pages are read on their own as well, with links as the repository has them.
"""

import posixpath
import re
import shutil
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_startup(command, dirty):
    """Lay core/ where docstrings are looked for, as the package that it is, whatever the checkout is called."""
    package = ROOT / "build" / "docstrings" / "vladapt"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "core", package / "core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", package)


def on_files(files, config):
    """Add the pages at the root."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as the site has them: `../CONTRIBUTING.md` is a page beside the others, a file of code is its name."""
    here = page.file.src_uri
    place = posixpath.dirname(here if here in ROOT_PAGES else f"docs/{here}")

    def as_on_the_site(link: re.Match) -> str:
        words, path, anchor = link.group(1), link.group(2), link.group(3) or ""
        target = posixpath.normpath(posixpath.join(place, path))
        if target not in ROOT_PAGES and not target.startswith("docs/"):
            return words if (ROOT / target).exists() else link.group(0)
        page_there = target.removeprefix("docs/")
        return f"[{words}]({posixpath.relpath(page_there, posixpath.dirname(here) or '.')}{anchor})"

    fences = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(as_on_the_site, part) for part in fences)


def on_page_content(html, page, config, files):
    """In the code of a cell `\\|` is `|`, as on the forge: there it is the only way to write one."""
    return re.sub(r"<td.*?</td>", lambda cell: CODE.sub(_without_escapes, cell.group(0)), html, flags=re.DOTALL)


def _without_escapes(code: re.Match) -> str:
    return code.group(0).replace(r"\|", "|")
