"""Evidently's report is made of the same tables, in one file, and only asked for where Evidently is installed."""

from pathlib import Path

import pytest

from mlops_assets.operations import evidently_report
from mlops_assets.operations.evidently_report import EvidentlyMissing, answered_features, write_evidently_report
from mlops_assets_tests.operations.reported import day, judged_home
from mlops_assets_tests.operations.watched import ROWS_A_DAY, Watched


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return judged_home(tmp_path_factory.mktemp("home"), days=1)


@pytest.mark.slow  # importing Evidently takes longer than most tests
def test_the_report_holds_every_feature_in_one_file(watched: Watched):
    page = write_evidently_report(watched.spec, watched.stores, day(0))
    assert page == watched.stores.home.reports / "delay" / f"{day(0)}.evidently.html"
    html = page.read_text(encoding="utf-8")
    assert all(name in html for name in watched.spec.feature_names)
    assert 'src="http' not in html


def test_the_rows_are_those_that_were_answered(watched: Watched):
    features = answered_features(watched.spec, watched.stores, day(0))
    assert list(features) == list(watched.spec.feature_names)
    assert len(features) == ROWS_A_DAY
    assert {str(kind) for kind in features[["temp", "wind", "night"]].dtypes} == {"float64"}


def test_without_the_extra_the_remedy_is_named(watched: Watched, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidently_report, "find_spec", lambda name: None)
    with pytest.raises(EvidentlyMissing, match=r"pip install 'mlops-assets\[report\]'"):
        write_evidently_report(watched.spec, watched.stores, day(0))


@pytest.mark.slow
def test_a_window_without_a_table_tells_what_to_materialise(watched: Watched, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="materialise"):
        write_evidently_report(watched.spec, watched.stores, day(5))
