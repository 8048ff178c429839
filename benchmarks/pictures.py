"""The pictures in the README and the pages, from real runs and headless Chromium, in docs/pictures.

    python benchmarks/pictures.py [report|photos|people|film|boxes|drawn_radiographs] ...     by default all

The report and the heat maps are of a fit on photographs of clothes (CC0; `general/clothing` in $VLADAPT_DATA), people
and the film are drawn and searched, the boxes are those of a detector on drawn scenes. The detector takes nine minutes
of CPU time, all others some; their folders stay in build/pictures, and a second call only takes the pictures again.
"""

from __future__ import annotations

import base64
import io
import json
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
SHOWN, SIDE, GAP = (1, 2, 3, 8), 219, 8
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")


def vladapt(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "vladapt", *arguments], check=True, cwd=WORK)


def run_of(name: str, *arguments: str) -> Path:
    """The run of this name, fitted if there is none yet."""
    folder = WORK / name
    reports = sorted(folder.glob("*/report.html"))
    if not reports:
        vladapt("fit", *arguments, "--out", folder)
        reports = sorted(folder.glob("*/report.html"))
    return reports[-1].parent


def searched(domain: str, data: str, *query: str) -> Path:
    """The page of a search in an index of the data, which is made if there is none yet."""
    index, page = f"{domain}.index", f"{domain}.html"
    if not (WORK / index).exists():
        vladapt("index", data, "--domain", domain, "--out", index)
    vladapt("search", index, *query, "--html", page)
    return WORK / page


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


def saved(picture: Image.Image, name: str, colours: int = 128, method: Image.Quantize | None = None) -> Path:
    """As a PNG of few colours in docs/pictures.

    Raises:
        SystemExit: the file is too large for a README.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    target = PICTURES / f"{name}.png"
    picture.quantize(colours, method).save(target, optimize=True)
    if (size := target.stat().st_size) > MOST_BYTES:
        sys.exit(f"pictures: {target.name} has {size:,} bytes, more than {MOST_BYTES:,}; cut it smaller")
    return target


def clothes() -> Path:
    """Class folders of photographs.

    Raises:
        SystemExit: they are not there.
    """
    data = Path(os.environ.get("VLADAPT_DATA", ROOT.parent / "shared" / "data")) / "general" / "clothing" / "images"
    if not data.is_dir():
        sys.exit(f"pictures: {data} is not there; set VLADAPT_DATA to the folder of public sets")
    return data


def clothing_run() -> Path:
    return run_of("clothing", "--data", str(clothes()), "--shots", "8")


def report() -> Path:
    return screenshot(clothing_run() / "report.html", "report", (900, 1050))


def photos() -> Path:
    """What two answers on photographs of the test split depend on, and the labelled ones most like them."""
    run = clothing_run()
    tested = json.loads((run / "run.json").read_text("utf-8"))["splits"]["test"]
    shown = [next(name for name in tested if name.startswith(kind)) for kind in ("shoes/", "dress/")]
    for name in shown:
        shutil.copy(clothes() / name, WORK / f"{Path(name).parent}.jpg")
    vladapt("predict", run, *(f"{Path(name).parent}.jpg" for name in shown), "--explain", "--out", "why")
    return screenshot(WORK / "why" / "explanations.html", "photos", (900, 900), (0, 0, 900, 880))


def people() -> Path:
    """The people of a drawn gallery most like one of them, as the tutorial searches it."""
    if not (WORK / "people").exists():
        subprocess.run(
            [sys.executable, ROOT / "examples" / "sample_folder.py", "person", "people"], check=True, cwd=WORK
        )
    one = ("--image", "people/images/person-00000-c1-000.png", "--top", "3")
    return screenshot(searched("person", "people/people.jsonl", *one), "people", (900, 700), (0, 0, 900, 690))


def film() -> Path:
    """The seconds of a drawn film that look most like one of them."""
    from video_writing import write_video

    from vladapt.domains.video.drawn_clips import draw_clip
    from vladapt.domains.video.drawn_moments import RATE, shown_in

    if not (WORK / "film.mp4").exists():
        parts = (draw_clip(clip.motion, clip.number, RATE * clip.seconds) for clip in shown_in(0))
        write_video(WORK / "film.mp4", [frame for part in parts for frame in part], fps=RATE)
    return screenshot(searched("video", "film.mp4", "--image", "film.mp4#t=20", "--top", "3"), "film", (900, 470))


def boxes() -> Path:
    """Pictures of "What it finds" in the report of a detector, four beside one another."""
    from vladapt.domains.open_vocab.shapes import HELD_OUT

    run = run_of("shapes", "--domain", "open-vocab", "--task", "detection", "--novel", ",".join(HELD_OUT))
    page = (run / "report.html").read_text("utf-8")
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page[page.index("What it finds") :])
    shown = [Image.open(io.BytesIO(base64.b64decode(found[number]))).convert("RGB") for number in SHOWN]
    # Colours far apart are kept: most pixels are noise, in whose shades the labels would be lost.
    return saved(side_by_side(shown, SIDE), "boxes", 256, Image.Quantize.MAXCOVERAGE)


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


DRAWN = {each.__name__: each for each in (report, photos, people, film, boxes, drawn_radiographs)}


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
