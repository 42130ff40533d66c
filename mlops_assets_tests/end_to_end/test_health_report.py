"""The page on a window's health in a real browser: opened from its file, without any network, in light, dark and on a phone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from mlops_assets.operations.report import SYMBOLS, verdicts_of, write_report
from mlops_assets_tests.end_to_end.dagster_dev import ROOT
from mlops_assets_tests.end_to_end.test_dagster_ui import CHROMIUM_FLAGS
from mlops_assets_tests.operations.reported import DAYS, day, judged_home
from mlops_assets_tests.operations.watched import Watched
from mlops_assets_tests.requirements import needs

pytestmark = pytest.mark.slow
ARTIFACTS = ROOT / "test-artifacts"
SHOWN = DAYS - 3  # broken, with labels
LOOKS = [("light", 1200), ("dark", 1200), ("light", 375), ("dark", 375)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    watched = judged_home(tmp_path_factory.mktemp("home"))
    for number in range(DAYS):
        write_report(watched.spec, watched.stores, day(number), pictures=number in (SHOWN, DAYS - 1))
    return watched


@contextmanager
def browser(folder: Path, scheme: str, width: int) -> Iterator[Page]:
    """A page of a headless Chromium that is cut off from every network; anything it complains of fails the test."""
    chromium = needs("chromium")
    heard: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=chromium,
            headless=True,
            args=CHROMIUM_FLAGS,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            offline=True,
        )
        page = context.new_page()
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("console", lambda message: heard.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        yield page
        context.close()
    assert heard == []
    assert all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_renders_by_itself(watched: Watched, tmp_path: Path, scheme: str, width: int):
    ARTIFACTS.mkdir(exist_ok=True)
    window = day(SHOWN)
    path = watched.stores.home.reports / "delay" / f"{window}.html"
    data, model = verdicts_of(watched.spec, watched.stores, window)
    with browser(tmp_path, scheme, width) as page:
        page.goto(path.as_uri())
        for verdict, of in ((data, "The data are"), (model, "The model is")):
            assert (
                page.get_by_role("region", name=of)
                .get_by_text(f"{SYMBOLS[verdict]} {verdict}", exact=True)
                .is_visible()
            )
        assert page.title() == f"delay {window}: data {data}, model {model}"
        images = page.get_by_role("img").all()
        assert len(images) >= 5
        for image in images:
            box = image.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > 150
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=ARTIFACTS / f"health_{scheme}_{width}.png", full_page=True)


def test_the_windows_lead_to_each_other(watched: Watched, tmp_path: Path):
    with browser(tmp_path, "light", 1200) as page:
        page.goto((watched.stores.home.reports / "delay" / f"{day(0)}.html").as_uri())
        for number in range(1, DAYS):
            page.get_by_role("link", name="later window").first.click()
            page.wait_for_url(f"**/{day(number)}.html")
        assert page.get_by_role("link", name="later window").count() == 0
        assert page.get_by_role("link", name="earlier window").first.is_visible()


def test_the_page_can_be_printed(watched: Watched, tmp_path: Path):
    with browser(tmp_path, "dark", 1200) as page:
        page.goto((watched.stores.home.reports / "delay" / f"{day(DAYS - 1)}.html").as_uri())
        page.emulate_media(media="print", color_scheme="light")
        ARTIFACTS.mkdir(exist_ok=True)
        printed = page.pdf(path=ARTIFACTS / "health.pdf", format="A4")
    assert printed.startswith(b"%PDF")
