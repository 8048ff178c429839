"""The page of a server on this machine: its files, and headers by which a browser loads nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
DRAWING = {"/drawing.js": ("drawing.js", "text/javascript")}
"""Of pages that draw on pictures."""


@dataclass(frozen=True)
class WebPage:
    """A folder with page.html, page.js and page.css.

    Args:
        folder: that holds them.
        token: put where page.html says TOKEN.
        images: where its pictures come from, as a Content-Security-Policy names it.
    """

    folder: Path
    token: str
    images: str = "'self'"

    @property
    def headers(self) -> dict[str, str]:
        """Of every answer of the server."""
        policy = "default-src 'none'; script-src 'self'; style-src 'self'; "
        policy += f"img-src {self.images}; connect-src 'self'; "
        return {
            "Content-Security-Policy": f"{policy}base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }

    def file(self, path: str) -> tuple[str, str]:
        """The text and the media type of what lies at a path of `FILES` or `DRAWING`."""
        name, kind = {**FILES, **DRAWING}[path]
        text = (self.folder / name).read_text(encoding="utf-8")
        return (text.replace("TOKEN", self.token) if path == "/" else text), kind
