"""The pictures of the README, from real runs, by headless Chromium: docs/pictures/report.png and map.png.

    python benchmarks/pictures.py [report|map] ...        both by default; `make pictures`

The report is of a fit on photographs of clothes (CC0; `general/clothing` in $VLADAPT_DATA), the map of drawn fields.
Each fit takes a minute or two; its folder stays in build/pictures, and a second call takes the picture alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORK, PICTURES = ROOT / "build" / "pictures", ROOT / "docs" / "pictures"
MOST_BYTES = 150_000
WAIT_MS = 4000
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
    """A PNG of 128 colours of a page, or of a part of it (left, top, right, bottom).

    Raises:
        SystemExit: there is no Chromium, or the file is too large for a README.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("pictures: no Chromium on the path; install it (Debian: apt-get install chromium)")
    raw, target = WORK / f"{name}.png", PICTURES / f"{name}.png"
    of_page = (f"--window-size={window[0]},{window[1]}", f"--virtual-time-budget={WAIT_MS}", f"--screenshot={raw}")
    profile = f"--user-data-dir={WORK / 'profile'}"
    subprocess.run([browser, *QUIET, *of_page, profile, page.resolve().as_uri()], check=True, capture_output=True)
    picture = Image.open(raw).convert("RGB")
    PICTURES.mkdir(parents=True, exist_ok=True)
    picture.crop(cut or (0, 0, *picture.size)).quantize(128).save(target, optimize=True)
    if (size := target.stat().st_size) > MOST_BYTES:
        sys.exit(f"pictures: {target.name} has {size:,} bytes, more than {MOST_BYTES:,}; cut it smaller")
    return target


def report() -> Path:
    data = Path(os.environ.get("VLADAPT_DATA", ROOT.parent / "shared" / "data")) / "general" / "clothing" / "images"
    if not data.is_dir():
        sys.exit(f"pictures: {data} is not there; set VLADAPT_DATA to the folder of public sets")
    return screenshot(run_of("clothing", "--data", str(data), "--shots", "8") / "report.html", "report", (900, 1050))


def field_map() -> Path:
    if not (WORK / "fields.tif").is_file():
        draw = ROOT / "benchmarks" / "raster_windows.py"
        subprocess.run([sys.executable, draw, "draw", "fields", "2000"], check=True, cwd=WORK)
    windows = ("--bands", "false-color", "--window-size", "100", "--overlap", "0", "--block-size", "4000")
    of_fields = ("--domain", "remote-sensing", "--data", "fields.tif", "--labels", "fields.gpkg", *windows)
    run = run_of("fields", *of_fields, "--adapter", "gda", "--shots", "16")
    if not (WORK / "map.html").is_file():
        command = [sys.executable, "-m", "vladapt", "predict", run, "fields.tif", "--out", "map.html"]
        subprocess.run(command, check=True, cwd=WORK)
    return screenshot(WORK / "map.html", "map", (900, 640))


DRAWN = {"report": report, "map": field_map}


def main(names: list[str]) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    for name in names or DRAWN:
        if name not in DRAWN:
            sys.exit(f"pictures: no picture '{name}'; there are {', '.join(DRAWN)}")
        made = DRAWN[name]()
        print(f"{made.relative_to(ROOT)}  {made.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
