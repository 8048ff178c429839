"""What commands print with `--json`, what a fit writes, which flags commands take, what `show` says of options.

    VLADAPT_GOLDEN=write python -m pytest tests/compatibility/test_golden.py

writes golden/ again, for a change that is wanted: its diff then shows what it is. Flags are kept by hand, since one
that was taken once is taken always. Numbers may differ by rounding; times, versions, paths and names of runs by all.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from vladapt.core.registry.catalogue import adapters, domains, losses, metrics, selectors, tasks

GOLDEN = Path(__file__).parent / "golden"
WRITES = os.environ.get("VLADAPT_GOLDEN") == "write"
UNKNOWN = "--no-such-option"

NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e-?\d+)?(?![\w.])|-?\d+(?:\.\d+)?e-\d+")
VOLATILE = (
    (r"\d{8}-\d{6}-([\w-]+)-[0-9a-f]{4}\b", r"TIME-\1-ID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?", "TIME"),
    (r'"(\w*second\w*)": [\d.e-]+', r'"\1": SECONDS'),
    (r"(?m),\d+\.\d{1,3}$", ",SECONDS"),
    (r'"(seconds)": \{[^}]*\}', r'"\1": SECONDS'),
    (r'"(versions|packages)": \{[^}]*\}', r'"\1": VERSIONS'),
    (r'"sha256": \{[^}]*\}', '"sha256": DIGESTS'),
    (r'"(python|platform|device|vladapt|mtime|modified|commit)": "[^"]*"', r'"\1": HERE'),
)
"""What differs from run to run or from machine to machine, and what stands for it."""

CASES = {
    "fit-features": "fit --features rows.npz --adapter gda --shots 4 --out {out}",
    "fit-auto": "fit --features rows.npz --shots 4 --out {out}",
    "fit-without-labels": "fit --features rows.npz --adapter zlap --shots 0 --out {out}",
    "fit-images": "fit --domain medical --data scans --backbone {clip} --adapter tip-adapter --shots 2 --out {out}",
    "fit-folder": "fit --data new --classes cat,dog --adapter zlap --backbone {clip} --out {out}",
    "fit-pairs": "fit --task retrieval --data pairs.csv --backbone {clip} --out {out}",
    "eval-features": "eval feature_runs/gda --out {out} --coverage 0.8 --max-error 0.4 --vocabulary-steps 2",
    "eval-images": "eval runs/lora --split all --out {out}",
    "eval-pairs": "eval retrieval_runs/pairs --out {out}",
    "eval-people": "eval retrieval_runs/re-identification --out {out}",
    "predict-images": "predict runs/tip-adapter new --coverage 0.8 --top 2",
    "predict-attributes": "predict runs/several-labels people/0.png people/13.png",
    "compare": "compare --features rows.npz --adapters tip-adapter,gda --shots 1,4 --seeds 1,2 --out {out}",
    "embed": "embed --data scans --backbone {clip} --out {out}/features.safetensors",
    "index": "index scans --backbone {clip} --out {out}/index",
    "search": "search indexes/people --text coat --where camera=c1 --top 2",
    "select": "select --data new --classes cat,dog --budget 2 --backbone {clip} --adapter nearest-mean "
    "--out {out}/a.csv",
    "export": "export feature_runs/gda --out {out}/model",
    "pretrain": "pretrain --data pairs.csv --backbone {clip} --epochs 1 --batch-size 3 --loss clip --generic scans/val "
    "--out {out}/model",
    "push": "push runs/tip-adapter me/cats --out {out}/card",
    "show-adapter": "show tip-adapter",
    "show-domain": "show domain video",
    "show-recipe": "show medical/blood-cells",
    "list-backbones": "list backbones --domain medical",
}
"""File in golden/ -> command, to which `--json` is added."""
NEEDS = dict.fromkeys(
    (
        "fit-images",
        "fit-folder",
        "fit-pairs",
        "eval-images",
        "eval-pairs",
        "eval-people",
        "embed",
        "select",
        "pretrain",
    ),
    "open_clip",
)
NEEDS |= dict.fromkeys(("predict-images", "predict-attributes"), "open_clip")
NEEDS |= {"search": "faiss", "index": "faiss", "export": "onnxruntime", "push": "huggingface_hub"}
"""Case -> what must be installed."""
ENCODES = ("fit-images", "fit-folder", "fit-pairs", "embed", "index", "select", "pretrain")
FILES = {
    "fit-features": ("metrics.json", "run.json"),
    "fit-without-labels": ("metrics.json",),
    "fit-folder": ("metrics.json", "predictions.csv"),
    "fit-images": ("metrics.json", "run.json"),
    "compare": ("*.csv",),
    "export": ("export.json",),
    "select": ("a.csv",),
}
"""Case -> files that it writes which are compared too, each wherever below --out it lies."""
LISTED = ("domains", "adapters", "selectors", "tasks", "losses", "metrics", "recipes", "backbones")
SHOWN = {
    "adapter": adapters,
    "loss": losses,
    "selector": selectors,
    "metric": metrics,
    "task": tasks,
    "domain": domains,
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch, later_place):
    """command("fit", ...) in the folder of what commit 9b9a365d wrote."""
    from vladapt.cli import main

    monkeypatch.setenv("COLUMNS", "160")

    def call(*words: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return Ended(ended.value.code or 0, *capsys.readouterr())

    return call


def as_kept(text: str, **folders: Path) -> str:
    """The text with words for what may differ."""
    for name, folder in folders.items():
        text = text.replace(str(folder), name.upper())
    for pattern, word in VOLATILE:
        text = re.sub(pattern, word, text)
    return text


def assert_kept(name: str, text: str) -> None:
    """The text is that of golden/NAME, but for rounding."""
    file = GOLDEN / name
    if WRITES:
        file.write_text(text, encoding="utf-8")
    kept = file.read_text(encoding="utf-8")
    assert NUMBER.sub("0.0", text) == NUMBER.sub("0.0", kept)
    now, then = (list(map(float, NUMBER.findall(each))) for each in (text, kept))
    assert now == pytest.approx(then, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_command_prints_its_object_and_writes_its_files(command, later_place, tmp_path, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    out = tmp_path / "out"
    out.mkdir()
    words = CASES[name].format(out=out, clip="open_clip:clip.json@clip.safetensors").split()
    ended = command(*words, *(("--device", "cpu") if name in ENCODES else ()), "--json")
    assert ended.code == 0, ended.err
    assert_kept(f"{name}.json", as_kept(ended.out, out=out, place=later_place))
    for file in FILES.get(name, ()):
        (written,) = out.rglob(file)
        kept = as_kept(written.read_text(encoding="utf-8"), out=out, place=later_place)
        assert_kept(f"{name}.{file.lstrip('*.')}", kept)


@pytest.mark.parametrize("what", LISTED)
def test_no_name_is_lost(command, what):
    """Further ones may come."""
    ended = command("list", what, "--json")
    rows = json.loads(ended.out)[what]
    file = GOLDEN / "names.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if WRITES:
        kept[what] = [row["name"] for row in rows]
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    assert set(kept[what]) <= {row["name"] for row in rows}
    assert all(isinstance(row["what"], str) and row["what"] for row in rows)


def test_doctor_tells_findings(command):
    ended = command("doctor", "--json")
    findings = json.loads(ended.out)["findings"]
    assert findings and all(set(each) == {"what", "ok", "found", "cure"} for each in findings)


@pytest.mark.parametrize("kind", SHOWN)
def test_options_are_shown_as_they_were(command, kind):
    """Of each name: the first line, what is told of it, and each option's values, default and help."""
    told = {}
    for name in sorted(SHOWN[kind]()):
        ended = command("show", kind, name, "--json")
        assert ended.code == 0, ended.err
        shown = json.loads(ended.out)
        options = {each.pop("name"): " | ".join(map(str, each.values())) for each in shown["options"]}
        told[name] = {**shown, "text": shown["text"].split("\n\n")[0], "options": options}
    assert_kept(f"options-{kind}.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


@pytest.mark.parametrize(
    ("name", "domain"),
    [(name, domain) for name, of in json.loads((GOLDEN / "flags.json").read_text()).items() for domain in of],
)
def test_a_command_takes_the_flags_that_it_took(command, name, domain):
    """Its parser stops at the one that nobody knows, and at none before it."""
    flags = json.loads((GOLDEN / "flags.json").read_text())[name]
    given = [word for flag in flags[domain] if flag != "--domain" for word in (flag, "1")]
    named = ["--domain", domain or "natural"] if "--domain" in flags[""] else []
    ended = command(*name.split(), *named, *given, UNKNOWN)
    assert ended.code == 2 and f"No such option: {UNKNOWN}" in ended.err
