"""Figures of the pages: which command each table of numbers comes from, and tables that are made again here.

`figures.json` names for each such table its page, its section, its place among the tables of that section, and the
command. A table that is new needs an entry. Those of features of real images are made again if VLADAPT_DATA has them.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "measurements").glob("*.md"))]
FIGURES = json.loads((Path(__file__).parent / "figures.json").read_text(encoding="utf-8"))
RULER = re.compile(r"\|[ :|-]+\|")
NUMBER = re.compile(r"\**[-+−]?\d+([.,]\d+)? ?(%|±.*|s|x|ms)?\**")
LEAST = 3
"""Numbers in a table of figures, which are also a quarter of its cells."""
FEATURES = "features/whurs19_clip/whurs19_CLIP_ViTB32.npz"


def cells_of(line: str) -> list[str]:
    return [cell.replace("`", "").strip() for cell in line.strip().strip("|").split("|")]


def tables_of(page: Path) -> dict[tuple[str, int], list[list[str]]]:
    """(Section, which of its tables of figures, from 1) -> rows of cells, the header first."""
    lines = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8")).splitlines()
    section, count, found = "", 0, {}
    for number, line in enumerate(lines):
        if line.startswith("#"):
            section, count = line.lstrip("# "), 0
        if not RULER.fullmatch(line.strip()) or not number or not lines[number - 1].startswith("|"):
            continue
        after = lines[number + 1 :]
        body = after[: next((n for n, each in enumerate(after) if not each.startswith("|")), len(after))]
        rows = [cells_of(each) for each in body]
        every = [cell for row in rows for cell in row]
        if sum(bool(NUMBER.match(cell)) for cell in every) >= max(LEAST, len(every) / 4):
            count += 1
            found[section, count] = [cells_of(lines[number - 1]), *rows]
    return found


def table(page: str, section: str, number: int = 1) -> list[list[str]]:
    return tables_of(ROOT / page)[section, number]


def test_each_table_of_figures_is_listed_with_its_command():
    listed = {(each["page"], each["section"], each["table"]) for each in FIGURES}
    there = {(page.relative_to(ROOT).as_posix(), *place) for page in PAGES for place in tables_of(page)}
    assert listed == there and len(FIGURES) == len(listed)


@pytest.mark.parametrize("page", sorted({each["page"] for each in FIGURES}))
def test_a_command_is_told_on_its_page_and_is_there(page):
    """Or, where the numbers were made by hand, `command` is null and `how` says how."""
    text = re.sub(r"\s*\\\n\s*", " ", (ROOT / page).read_text(encoding="utf-8"))
    for each in (each for each in FIGURES if each["page"] == page):
        assert each["command"] or each["how"]
        if each["command"]:
            assert each["command"].removeprefix("python ") in text, each
            words = shlex.split(each["command"].partition(" && ")[0])
            assert words[0] == "vladapt" or (ROOT / words[1]).is_file()


@pytest.fixture
def vladapt(capsys, monkeypatch, tmp_path):
    """vladapt("compare", ...) -> what `--json` prints, in a folder of its own."""
    from vladapt.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> dict:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return json.loads(out)

    return call


@pytest.fixture
def features(data_dir) -> Path:
    file = data_dir / FEATURES
    return file if file.is_file() else pytest.skip(f"not among the real data: {FEATURES}")


def percent(cell: str) -> list[float]:
    """ "84.1 ± 1.9" -> [84.1, 1.9]."""
    return [float(each.strip(" %")) for each in cell.split("±")]


def compared(vladapt, features: Path, protocol: str, shots: str, adapters: str) -> dict[tuple[str, int], list[float]]:
    """(Method, shots) -> [mean, standard deviation] of the accuracy over seeds, in percent."""
    how = ("--protocol", protocol, "--features", features, "--shots", shots, "--adapters", adapters)
    scores: dict[tuple[str, int], list[float]] = {}
    for row in vladapt("compare", *how)["rows"]:
        scores.setdefault((row["adapter"], row["shots"]), []).append(100 * row["accuracy"])
    return {key: [statistics.mean(found), statistics.pstdev(found)] for key, found in scores.items()}


def test_the_first_table_is_what_its_command_prints(vladapt, features):
    """Some methods and shots of it, to a tenth of a percent."""
    header, *rows = table("README.md", "Does the method matter?")
    now = compared(vladapt, features, "coop", "1,4", "linear-probe,tip-adapter,gda")
    told = {row[0]: row for row in rows}
    for (name, shots), score in now.items():
        cell = told[name][header.index(f"{shots} shot{'s' if shots > 1 else ''}")]
        assert percent(cell) == pytest.approx(score, abs=0.051), (name, shots)


def test_the_table_of_protocols_is_what_its_command_prints(vladapt, features):
    header, *rows = table("docs/measurements/protocols.md", "What a protocol changes")
    told, column = {row[0]: row for row in rows}, header.index("fixed 4 shots")
    for (name, _), score in compared(vladapt, features, "fixed", "4", "proker,ss-text").items():
        assert percent(told[name][column]) == pytest.approx(score, abs=0.051), name


def test_the_table_of_a_growing_vocabulary_is_what_its_commands_print(vladapt, features):
    _, *rows = table("docs/measurements/without-labels.md", "A vocabulary that grows")
    made = vladapt("fit", "--features", features, "--adapter", "ridge", "--shots", 4)
    grown = vladapt("eval", made["run"], "--vocabulary-steps", 5)["vocabulary"]
    for column, (side, kind) in enumerate(
        (s, k) for s in ("zero_shot", "adapted") for k in ("extensibility", "stability")
    ):
        told = [percent(row[column + 1])[0] for row in rows if row[column + 1] != "–"]
        of = [100 * each for each in (*grown[side][f"{kind}_by_step"], grown[side][kind])]
        assert told == pytest.approx(of, abs=0.051), (side, kind)
