"""The page of a server asks nothing of elsewhere, and only its own head holds the token."""

from __future__ import annotations

import pytest

from vladapt.core.runtime.web_page import FILES, WebPage


@pytest.fixture
def page(tmp_path) -> WebPage:
    for name, _ in FILES.values():
        (tmp_path / name).write_text(f"{name} TOKEN", encoding="utf-8")
    return WebPage(tmp_path, "secret", images="'self' blob:")


def test_the_token_is_put_into_the_page_alone(page):
    assert page.file("/") == ("page.html secret", "text/html")
    assert page.file("/page.js") == ("page.js TOKEN", "text/javascript")
    assert page.file("/page.css") == ("page.css TOKEN", "text/css")


def test_a_browser_is_told_to_load_nothing_from_elsewhere(page):
    assert page.headers == {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
