"""The page of a report in a real browser: Debian's chromium, or another one that is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from reports import BAD_NAME, fitted, texture, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=PROGRAM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    images = {f"good {seed}.png": texture(seed) for seed in range(100, 105)}
    images |= {"bad.png": texture(200, defect=True), BAD_NAME: texture(201, defect=True)}
    write_report(fitted(), images, file)
    return file


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page, 1,280 pixels wide; it must neither complain nor ask for anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    page.close()


def shown(page: Page) -> list[str]:
    script = "all => all.filter(e => e.offsetParent).map(e => e.dataset.id)"
    names: list[str] = page.locator("article").evaluate_all(script)
    return names


def has_focus(page: Page) -> str | None:
    name: str | None = page.evaluate("document.activeElement.dataset.id ?? null")
    return name


def background(page: Page) -> list[int]:
    script = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    color: list[int] = page.evaluate(script)
    return color[:3]


def test_all_pictures_of_the_page_are_drawn(page: Page) -> None:
    script = "all => all.every(e => e.complete && e.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(script)
    assert len(shown(page)) == 7


def test_the_slider_changes_how_much_of_the_map_is_seen(page: Page) -> None:
    layer = page.locator(".layer.above").first
    opacity = "e => getComputedStyle(e).opacity"
    assert layer.evaluate(opacity) == "0.6"
    page.get_by_label("Map opacity").fill("25")
    assert layer.evaluate(opacity) == "0.25"
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("m")
    assert layer.evaluate(opacity) == "0"
    page.keyboard.press("m")
    assert layer.evaluate(opacity) == "0.25"


def test_the_whole_map_is_shown_where_it_is_asked_for(page: Page) -> None:
    whole, above = page.locator(".layer.all").first, page.locator(".layer.above").first
    assert above.is_visible()
    assert not whole.is_visible()
    page.get_by_label("Map below the threshold, too").check()
    assert whole.is_visible()
    assert not above.is_visible()


def test_the_filter_hides_images_and_says_how_many_are_left(page: Page) -> None:
    script = "all => Object.fromEntries(all.map(e => [e.dataset.id, e.dataset.verdict]))"
    verdicts: dict[str, str] = page.locator("article").evaluate_all(script)
    anomalous = {id_ for id_, verdict in verdicts.items() if verdict == "anomalous"}
    assert {"bad.png", BAD_NAME} <= anomalous < set(verdicts)
    page.get_by_label("Anomalous", exact=True).check()
    assert set(shown(page)) == anomalous
    words = page.get_by_role("status").inner_text()
    assert words == f"{len(anomalous)} of 7 anomalous images"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("f")
    assert set(shown(page)) == set(verdicts) - anomalous
    page.keyboard.press("f")
    assert len(shown(page)) == 7


def test_images_are_found_by_a_part_of_their_name(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("<SCRIPT>")
    assert shown(page) == [BAD_NAME]
    page.get_by_label("Search").fill("no such")
    assert shown(page) == []
    assert page.get_by_text("No image matches.").is_visible()


def test_images_are_sorted_by_score_or_name(page: Page) -> None:
    first = shown(page)
    page.get_by_label("Sort").select_option("low")
    assert shown(page) == first[::-1]
    page.get_by_label("Sort").select_option("id")
    assert shown(page)[1:] == ["bad.png", *(f"good {seed}.png" for seed in range(100, 105))]


def test_keys_move_from_image_to_image(page: Page) -> None:
    names = shown(page)
    for key, place in (("j", 0), ("j", 1), ("ArrowRight", 2), ("k", 1), ("ArrowLeft", 0), ("k", 0)):
        page.keyboard.press(key)
        assert has_focus(page) == names[place], key
    focused = page.locator("article:focus")
    assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


def test_keys_belong_to_the_field_in_which_they_are_typed(page: Page) -> None:
    page.get_by_label("Search").click()
    page.keyboard.type("fj?")
    assert page.get_by_label("Search").input_value() == "fj?"
    assert page.get_by_label("All", exact=True).is_checked()


def test_the_keys_are_listed_and_the_list_is_closed_by_key(page: Page) -> None:
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_the_page_is_dark_where_the_system_is_or_the_button_says_so(page: Page) -> None:
    assert min(background(page)) > 200
    page.emulate_media(color_scheme="dark")
    assert max(background(page)) < 60
    page.get_by_role("button", name="Dark").click()
    assert min(background(page)) > 200
    page.emulate_media(color_scheme="light")
    page.keyboard.press("d")
    assert max(background(page)) < 60


@pytest.mark.parametrize("width", [1280, 800, 390])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_texts_have_enough_contrast_in_both_themes(page: Page) -> None:
    """At least 4.5 to 1, as WCAG asks for; of what is quiet, too."""
    script = """() => {
      const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => {
          const s = v / 255;
          return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = (e) => {
        for (; e; e = e.parentElement) {
          const color = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)$/.test(color)) return color;
        }
      };
      const bad = [];
      for (const e of document.querySelectorAll(
        "p, h1, h2, h3, dt, dd, figcaption, label span, th, td, strong, button"
      )) {
        if (!e.offsetParent) continue;
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)}`);
      }
      return bad;
    }"""
    assert page.evaluate(script) == []
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(script) == []
