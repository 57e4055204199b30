"""The page of serve.py in Chromium, by keyboard, as a person would use it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from examples.dpr import serve
from test.examples.test_serve import HOSTILE, config_of, make, served, until

webdriver = pytest.importorskip("selenium.webdriver")
Keys = webdriver.Keys
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
WIDE, NARROW = 1200, 390


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("bm25s")
    config = config_of(make(tmp_path_factory.mktemp("page")), bm25=True)
    with served(config, serve.searches_of(config)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location, driver = programs
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser: Any, site: str) -> Any:
    """The browser, wide and light, with the empty form."""
    show(browser, WIDE, "light")
    browser.get(site)
    browser.get_log("browser")
    return browser


def show(browser: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == NARROW}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def press(browser: Any, *keys: str) -> None:
    """Types, the last key sending the form, until the next page is there."""
    for key in keys:
        browser.switch_to.active_element.send_keys(key)
    until(lambda: browser.execute_script("return document.readyState === 'complete' && location.search !== ''"))


def all_of(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def test_asked_by_keyboard(page: Any) -> None:
    press(page, "how tall is the oak", Keys.ENTER)
    assert page.title == "how tall is the oak \u2013 Passage search"
    assert [each.text for each in all_of(page, "h2")][1] == "BM25"
    assert len(all_of(page, "section:first-of-type li")) == 10
    assert re.search(r"Answered in [\d,]+ ms", page.find_element("css selector", "main").text)
    assert page.get_log("browser") == []


def test_every_field_by_keyboard(page: Any) -> None:
    press(page, "oak", Keys.TAB, "OAK", Keys.TAB, Keys.ARROW_UP, Keys.TAB, Keys.ENTER)
    assert [each.get_attribute("value") for each in all_of(page, "input")] == ["oak", "OAK", "11"]
    assert {each.text for each in all_of(page, "mark")} == {"oak"}


def test_side_by_side_where_there_is_room(page: Any, site: str) -> None:
    for width, expected in ((WIDE, True), (NARROW, False)):
        show(page, width, "light")
        page.get(f"{site}?q=oak&k=30")
        first, second = (each.rect for each in all_of(page, "section"))
        assert (first["y"] == second["y"]) is expected
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        assert [each.is_displayed() for each in all_of(page, "nav a")] == [not expected] * 2


def test_links_lead_to_each_search_on_a_phone(page: Any, site: str) -> None:
    show(page, NARROW, "light")
    page.get(f"{site}?q=oak")
    all_of(page, "nav a")[1].send_keys(Keys.ENTER)
    assert page.execute_script("return document.querySelectorAll('section')[1].getBoundingClientRect().top") < 800


def test_nothing_that_is_shown_runs(page: Any) -> None:
    question = '<script>alert(3)</script>" onfocus=alert(4) autofocus x="'
    press(page, question, Keys.TAB, Keys.TAB, Keys.CONTROL + "a", "33", Keys.ENTER)
    assert page.find_element("css selector", "[name=q]").get_attribute("value") == question
    assert all_of(page, "script, img") == []
    shown = page.find_element("css selector", "section").text
    assert all(text in shown for _, title, text in HOSTILE for text in (title, text.split("\n")[0]))
    assert page.get_log("browser") == []


def test_nothing_found(page: Any) -> None:
    press(page, "xylophone", Keys.ENTER)
    assert len(all_of(page, "section:first-of-type li")) == 10
    assert "Nothing found." in all_of(page, "section")[1].text


def test_an_error_is_said_and_what_was_typed_stays(page: Any) -> None:
    press(page, "   ", Keys.TAB, "oak <b>", Keys.ENTER)
    assert page.find_element("css selector", "[role=alert]").text == "question: blank; expected a question"
    assert page.find_element("css selector", "[name=answer]").get_attribute("value") == "oak <b>"
    assert page.switch_to.active_element.get_attribute("name") == "q"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_stand_out(page: Any, site: str, scheme: str) -> None:
    """Contrast of 4.5 to 1, as the accessibility guidelines for web content (WCAG 2.1, 1.4.3) ask for."""
    show(page, WIDE, scheme)
    page.get(f"{site}?q=oak&answer=oak")
    brightness = []
    for selector in ("h1", "label", "input", "button", "h3", ".text", ".id", ".figure", "mark", ".note", "footer a"):
        ink, paper = (luminance(color) for color in page.execute_script(COLORS, selector))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector
        brightness.append((ink, paper))
    ink, paper = brightness[0]
    assert (ink < paper) is (scheme == "light")


# Of an element's text, and of what is behind it.
COLORS = """
let element = document.querySelector(arguments[0]), ink = getComputedStyle(element).color;
while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
return [ink, getComputedStyle(element).backgroundColor];
"""


def luminance(color: str) -> float:
    """As WCAG 2.1 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
