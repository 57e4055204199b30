"""Tests of the search page in Chromium, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from test.browser import NARROW, WIDE, open_browser, set_window
from test.serving.helpers import HOSTILE, make_bm25_search, make_site, run_server, wait_until
from text.serving import load_search

webdriver = pytest.importorskip("selenium.webdriver")
Keys = webdriver.Keys


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_site(tmp_path_factory.mktemp("site"))
    search = load_search(folder / "model", folder / "embeddings", device="cpu")
    with run_server([search, make_bm25_search(search)]) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from open_browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def page(browser: Any, site: str) -> Any:
    """Return the browser with the empty form, in a wide window and the light color scheme."""
    set_window(browser, WIDE, "light")
    browser.get(site)
    browser.get_log("browser")
    return browser


def press(browser: Any, *keys: str) -> None:
    """Type into the focused element and wait for the next page. The last key must submit the form."""
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
    wait_until(lambda: browser.execute_script("return document.readyState === 'complete' && location.search !== ''"))


def find_all(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def test_a_question_by_keyboard(page: Any) -> None:
    press(page, "how tall is the oak", Keys.ENTER)
    assert page.title == "how tall is the oak \u2013 Passage search"
    assert [each.text for each in find_all(page, "h2")][1] == "BM25"
    assert len(find_all(page, "section:first-of-type li")) == 10
    assert re.search(r"Answered in [\d,]+ ms", page.find_element("css selector", "main").text)
    assert page.get_log("browser") == []


def test_every_field_by_keyboard(page: Any) -> None:
    press(page, "oak", Keys.TAB, "OAK", Keys.TAB, Keys.ARROW_UP, Keys.TAB, Keys.ENTER)
    assert [each.get_attribute("value") for each in find_all(page, "input")] == ["oak", "OAK", "11"]
    assert {each.text for each in find_all(page, "mark")} == {"oak"}


def test_searches_are_side_by_side_only_on_a_wide_screen(page: Any, site: str) -> None:
    for width, expected in ((WIDE, True), (NARROW, False)):
        set_window(page, width, "light")
        page.get(f"{site}?q=oak&k=30")
        first, second = (each.rect for each in find_all(page, "section"))
        assert (first["y"] == second["y"]) is expected
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert [each.is_displayed() for each in find_all(page, "nav a")] == [not expected] * 2


def test_links_jump_to_each_search_on_a_narrow_screen(page: Any, site: str) -> None:
    set_window(page, NARROW, "light")
    page.get(f"{site}?q=oak")
    find_all(page, "nav a")[1].send_keys(Keys.ENTER)
    assert page.execute_script("return document.querySelectorAll('section')[1].getBoundingClientRect().top") < 800


def test_no_text_runs_as_a_script(page: Any) -> None:
    question = '<script>alert(3)</script>" onfocus=alert(4) autofocus x="'
    press(page, question, Keys.TAB, Keys.TAB, Keys.CONTROL + "a", "33", Keys.ENTER)
    assert page.find_element("css selector", "[name=q]").get_attribute("value") == question
    assert find_all(page, "script, img") == []
    shown = page.find_element("css selector", "section").text
    assert all(text in shown for _, title, text in HOSTILE for text in (title, text.split("\n")[0]))
    assert page.get_log("browser") == []


def test_a_search_without_results_says_so(page: Any) -> None:
    press(page, "xylophone", Keys.ENTER)
    assert len(find_all(page, "section:first-of-type li")) == 10
    assert "Nothing found." in find_all(page, "section")[1].text


def test_an_error_is_shown_and_the_fields_keep_their_texts(page: Any) -> None:
    press(page, "   ", Keys.TAB, "oak <b>", Keys.ENTER)
    assert page.find_element("css selector", "[role=alert]").text.startswith("question: ")
    assert page.find_element("css selector", "[name=answer]").get_attribute("value") == "oak <b>"
    assert page.switch_to.active_element.get_attribute("name") == "q"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_enough_contrast(page: Any, site: str, scheme: str) -> None:
    """Check for a contrast of at least 4.5 to 1 (Web Content Accessibility Guidelines, WCAG 2.1, 1.4.3)."""
    set_window(page, WIDE, scheme)
    page.get(f"{site}?q=oak&answer=oak")
    brightness = []
    for selector in ("h1", "label", "input", "button", "h3", ".text", ".id", ".figure", "mark", ".note", "footer a"):
        ink, paper = (compute_luminance(color) for color in page.execute_script(COLORS, selector))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector
        brightness.append((ink, paper))
    ink, paper = brightness[0]
    assert (ink < paper) is (scheme == "light")


COLORS = """
let element = document.querySelector(arguments[0]), ink = getComputedStyle(element).color;
while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
return [ink, getComputedStyle(element).backgroundColor];
"""
"""Script that returns the text color and the background color of an element."""


def compute_luminance(color: str) -> float:
    """Return the relative luminance of a CSS color, as WCAG 2.1 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
