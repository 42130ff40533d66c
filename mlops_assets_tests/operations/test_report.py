"""The page says what the monitors have written down, and nothing that it shows can become part of its code."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from mlops_assets.core.monitoring.health import DataHealth, ModelHealth
from mlops_assets.core.monitoring.reference import ReferenceProfile
from mlops_assets.operations.report import (
    SYMBOLS,
    Counted,
    Neighbours,
    draw_pictures,
    judged_windows,
    metric_rows,
    render,
    report_path,
    verdicts_of,
    write_report,
)
from mlops_assets_tests.operations.health_examples import (
    KINDS,
    health_reference,
    health_rows,
    health_spec,
    health_windows,
    model_windows,
    renamed,
)
from mlops_assets_tests.operations.reported import BROKEN_FROM, DAYS, day, judged_home
from mlops_assets_tests.operations.watched import Watched

MADE_AT = datetime(2024, 4, 5, 6, 7, tzinfo=UTC)
ALONE = Neighbours("./before.html", "./after.html", False, False)
HOSTILE = "<script>alert('x')</script>\"&amp;$\\frac{"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page taken apart: its elements, its attributes, its text; AssertionError for tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def reference() -> ReferenceProfile:
    return health_reference()


@pytest.fixture(scope="module")
def data(reference: ReferenceProfile) -> list[DataHealth]:
    return health_windows(reference, 8, 6)[1]


@pytest.fixture(scope="module")
def model() -> list[ModelHealth]:
    return model_windows(8, 6)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return judged_home(tmp_path_factory.mktemp("home"))


def page_of(data: DataHealth | None, model: ModelHealth | None) -> Page:
    return Page(render(health_spec(), data, model, [], ALONE, MADE_AT))


def test_verdicts_come_first_in_words_and_signs(data: list[DataHealth], model: list[ModelHealth]):
    text = page_of(data[-1], model[-1]).text
    assert data[-1].verdict == model[-1].verdict == "unhealthy"
    assert re.search(r"The data are ✕ unhealthy .* The model is ✕ unhealthy .* Why: the data .* Why: the model", text)


@pytest.mark.parametrize("verdict", SYMBOLS)
def test_no_verdict_is_told_by_its_colour_alone(data: list[DataHealth], verdict: str):
    text = page_of(msgspec.structs.replace(data[-1], verdict=verdict), None).text
    assert f"The data are {SYMBOLS[verdict]} {verdict}" in text


def test_the_page_tells_why(data: list[DataHealth], model: list[ModelHealth]):
    text = page_of(data[-1], model[-1]).text
    for one in (data[-1], model[-1]):
        for reason in one.reasons:
            assert reason in text
    positions = [text.index(f"{rank}. {name}") for rank, name in enumerate(data[-1].culprits, 1)]
    assert positions == sorted(positions)
    assert data[-1].confidence in text
    assert "new: ZZ1, ZZ2" in text
    for words in (
        "290 of 300 answers",
        "version 2 would not have been better",
        "312 3 7 5",
        "0.42",
        "roc_auc",
        "delay, version 3",
    ):
        assert words in text
    assert "2024-03-08 00:00 UTC to 2024-03-09 00:00 UTC" in text
    assert "2024-04-05 06:07 UTC" in text


def test_what_is_not_known_is_a_dash_and_never_nan(data: list[DataHealth], model: list[ModelHealth]):
    service = msgspec.structs.replace(model[-1].service, latency_p50_ms=float("nan"), latency_p99_ms=float("nan"))
    bare = msgspec.structs.replace(
        model[-1],
        service=service,
        realised={},
        estimated={},
        performance=None,
        scores=None,
        former=None,
        version=None,
        bundle=None,
    )
    empty = msgspec.structs.replace(data[-1], drift=None, culprits=(), broken=(), verdict="insufficient data")
    text = page_of(empty, bare).text
    assert not re.search(r"\bnan\b|\bNone\b", text)
    assert "The features were not tested" in text
    assert all(one.estimated != one.estimated for one in metric_rows(bare))


@pytest.mark.parametrize("there", ["data", "model"])
def test_a_page_of_one_verdict_says_how_to_get_the_other(data: list[DataHealth], model: list[ModelHealth], there: str):
    page = page_of(data[-1] if there == "data" else None, model[-1] if there == "model" else None)
    missing = "model_health" if there == "data" else "data_health"
    assert f"not judged: materialise partition {data[-1].window} of delay/{missing}" in page.text


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_hostile_name_stays_text(reference: ReferenceProfile, data: list[DataHealth], model: list[ModelHealth]):
    frame = health_rows(2_000, 7).rename(columns={"temp": HOSTILE, "night": "night"})
    kinds = {HOSTILE if name == "temp" else name: kind for name, kind in KINDS.items()}
    odd = ReferenceProfile.of(frame.assign(dest=HOSTILE), kinds, None, 200)
    history = renamed(data, "temp", HOSTILE)
    newest = msgspec.structs.replace(history[-1], reasons=(f"{HOSTILE} is odd",), unseen={"dest": (HOSTILE,)})
    pictures = draw_pictures(health_spec(), [*history[:-1], newest], model, Counted(odd, odd.whole))
    html = render(health_spec(), newest, model[-1], pictures, ALONE, MADE_AT)
    page = Page(html)
    assert "<script" not in html
    assert page.all("script") == []
    assert f"{HOSTILE} is odd" in page.text
    assert any(HOSTILE in (svg["aria-label"] or "") for svg in page.all("svg"))


def test_the_page_needs_nothing_but_itself_and_can_be_read_aloud(
    reference: ReferenceProfile, data: list[DataHealth], model: list[ModelHealth]
):
    pictures = draw_pictures(health_spec(), data, model, Counted(reference, reference.whole))
    html = render(health_spec(), data[-1], model[-1], pictures, ALONE, MADE_AT)
    page = Page(html)
    links = [value for _, one in page.elements for name, value in one.items() if name in ("src", "href", "xlink:href")]
    assert all(re.match(r"\./|#|data:image/png;base64,", link or "") for link in links)
    assert not re.search(r"url\((?!#)|@import", html)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("svg")) == len(pictures) == 3 + len(data[-1].culprits)
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert next(name for name, _ in page.elements if name in ("h1", "h2", "h3")) == "h1"
    assert all(head.get("scope") for head in page.all("th"))
    assert {"main", "header", "footer", "title", "figcaption", "caption"} <= {name for name, _ in page.elements}
    assert len(html) < 400_000


def test_a_page_needs_a_verdict():
    with pytest.raises(ValueError, match="a page needs a verdict"):
        page_of(None, None)


def test_pages_are_written_and_lead_to_each_other(watched: Watched):
    first, second, third = (day(number) for number in range(BROKEN_FROM - 1, BROKEN_FROM + 2))
    spec, stores = watched.spec, watched.stores
    for window in (first, third):
        assert write_report(spec, stores, window, pictures=False) == report_path(stores.home, spec.name, window)

    def shown(window: str) -> set[str]:
        links = Page(report_path(stores.home, spec.name, window).read_text(encoding="utf-8")).all("a")
        return {link["href"] or "" for link in links if "hidden" not in link}

    assert shown(first) == shown(third) == set()
    path = write_report(spec, stores, second)
    assert shown(second) == {f"./{first}.html", f"./{third}.html"}
    assert shown(first) == shown(third) == {f"./{second}.html"}
    page = Page(path.read_text(encoding="utf-8"))
    assert verdicts_of(spec, stores, second)[0] in ("unhealthy", "failed")
    assert any("Distribution of wind" in (svg["aria-label"] or "") for svg in page.all("svg"))
    assert watched.bundle in page.text


def test_a_page_can_be_made_though_the_bundle_is_gone(watched: Watched, tmp_path: Path):
    """Bundles that no release needs may be removed; what was said with them stays."""
    health = watched.stores.lake.read_document("delay", f"data_health/{day(0)}", DataHealth)
    gone = msgspec.structs.replace(health, bundle=f"sha256:{64 * '0'}")
    other = Watched.released(tmp_path)
    other.stores.lake.write_document("delay", f"data_health/{day(0)}", gone)
    page = Page(write_report(other.spec, other.stores, day(0)).read_text(encoding="utf-8"))
    assert not any("Distribution" in (svg["aria-label"] or "") for svg in page.all("svg"))


def test_a_window_without_a_verdict_tells_what_to_materialise(watched: Watched):
    later = day(DAYS + 3)
    with pytest.raises(FileNotFoundError, match=f"partition {later} of delay/data_health and delay/model_health first"):
        write_report(watched.spec, watched.stores, later)
    assert not report_path(watched.stores.home, "delay", later).exists()
    with pytest.raises(ValueError, match="is no window"):
        write_report(watched.spec, watched.stores, "../../etc/passwd")


def test_the_judged_windows_are_known_in_order(watched: Watched):
    assert judged_windows(watched.spec, watched.stores) == [day(number) for number in range(DAYS)]
    assert verdicts_of(watched.spec, watched.stores, day(DAYS + 3)) == ("not judged", "not judged")


def test_pages_of_hours_lead_to_each_other(tmp_path: Path, data: list[DataHealth]):
    """Regression: a colon before the first slash of a link is read as the end of a protocol's name."""
    other = Watched.released(tmp_path)
    spec = health_spec().model_copy(
        update={"monitoring": health_spec().monitoring.model_copy(update={"window": "hour"})}
    )
    for number in range(2):
        begin = data[0].begin + timedelta(hours=number)
        key = begin.strftime("%Y-%m-%d-%H:%M")
        one = msgspec.structs.replace(data[0], window=key, begin=begin, bundle=None)
        other.stores.lake.write_document("delay", f"data_health/{key}", one)
        page = Page(write_report(spec, other.stores, key, pictures=False).read_text(encoding="utf-8"))
    (link,) = {one["href"] for one in page.all("a") if "hidden" not in one}
    assert link == "./2024-03-01-00%3A00.html"
