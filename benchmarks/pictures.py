"""The pictures in the README and the pages, from real runs and headless Chromium, in docs/pictures.

    python benchmarks/pictures.py [report|boxes|drawn_radiographs] ...      all by default; `make pictures`

The report is of a fit on photographs of clothes (CC0; `general/clothing` in $VLADAPT_DATA), the boxes are those of a
detector on drawn scenes. The first fit takes a minute, the second half an hour on two cores; their folders stay in
build/pictures, and a second call only takes the pictures again.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from usage import print_help

ROOT = Path(__file__).resolve().parents[1]
WORK, PICTURES = ROOT / "build" / "pictures", ROOT / "docs" / "pictures"
MOST_BYTES = 150_000
WAIT_MS = 4000
SHOWN, SIDE, GAP = (0, 3, 4, 7), 219, 8
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")


def run_of(name: str, *arguments: str) -> Path:
    """The run of this name, fitted if there is none yet."""
    folder = WORK / name
    found = sorted(folder.glob("*/report.html"))
    if not found:
        subprocess.run([sys.executable, "-m", "vladapt", "fit", *arguments, "--out", folder], check=True, cwd=WORK)
        found = sorted(folder.glob("*/report.html"))
    return found[-1].parent


def screenshot(page: Path, name: str, window: tuple[int, int], cut: tuple[int, int, int, int] | None = None) -> Path:
    """A picture of a page, or of a part of it (left, top, right, bottom).

    Raises:
        SystemExit: there is no Chromium.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("pictures: no Chromium on the path; install it (Debian: apt-get install chromium)")
    raw = WORK / f"{name}.png"
    of_page = (f"--window-size={window[0]},{window[1]}", f"--virtual-time-budget={WAIT_MS}", f"--screenshot={raw}")
    profile = f"--user-data-dir={WORK / 'profile'}"
    subprocess.run([browser, *QUIET, *of_page, profile, page.resolve().as_uri()], check=True, capture_output=True)
    picture = Image.open(raw).convert("RGB")
    return saved(picture.crop(cut or (0, 0, *picture.size)), name)


def saved(picture: Image.Image, name: str) -> Path:
    """As a PNG of 128 colours in docs/pictures.

    Raises:
        SystemExit: the file is too large for a README.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    target = PICTURES / f"{name}.png"
    picture.quantize(128).save(target, optimize=True)
    if (size := target.stat().st_size) > MOST_BYTES:
        sys.exit(f"pictures: {target.name} has {size:,} bytes, more than {MOST_BYTES:,}; cut it smaller")
    return target


def report() -> Path:
    data = Path(os.environ.get("VLADAPT_DATA", ROOT.parent / "shared" / "data")) / "general" / "clothing" / "images"
    if not data.is_dir():
        sys.exit(f"pictures: {data} is not there; set VLADAPT_DATA to the folder of public sets")
    return screenshot(run_of("clothing", "--data", str(data), "--shots", "8") / "report.html", "report", (900, 1050))


def boxes() -> Path:
    """Pictures of "What it finds" in the report of a detector, four beside one another."""
    run = run_of("shapes", "--domain", "open-vocab", "--task", "detection", "--epochs", "3")
    page = (run / "report.html").read_text("utf-8")
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page[page.index("What it finds") :])
    shown = [Image.open(io.BytesIO(base64.b64decode(found[number]))).convert("RGB") for number in SHOWN]
    return saved(side_by_side(shown, SIDE), "boxes")


def drawn_radiographs() -> Path:
    """One of the sample's radiographs with each finding alone, and one without any."""
    from vladapt.domains.medical.drawn_radiographs import FINDINGS, drawn_radiographs, render, study

    items, wanted = drawn_radiographs().items, [*({finding} for finding in FINDINGS), set()]
    shown = [next(item for item in items if set(study(0, item.decode["number"]).places) == some) for some in wanted]
    return saved(side_by_side([Image.fromarray(render(item)) for item in shown], SIDE // 3 * 2), "drawn_radiographs")


def side_by_side(pictures: list[Image.Image], side: int) -> Image.Image:
    row = Image.new("RGB", (len(pictures) * (side + GAP) - GAP, side), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture.resize((side, side)), (place * (side + GAP), 0))
    return row


DRAWN = {"report": report, "boxes": boxes, "drawn_radiographs": drawn_radiographs}


def main(names: list[str]) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    for name in names or DRAWN:
        if name not in DRAWN:
            sys.exit(f"pictures: no picture '{name}'; there are {', '.join(DRAWN)}")
        made = DRAWN[name]()
        print(f"{made.relative_to(ROOT)}  {made.stat().st_size:,} bytes")


if __name__ == "__main__":
    print_help(__doc__)
    main(sys.argv[1:])
