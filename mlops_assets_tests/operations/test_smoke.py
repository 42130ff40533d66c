"""The smoke test asks a running service, or the bundle where none runs, and notices a wrong answer."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mlops_assets.core.scoring.scorer import GoldenRows
from mlops_assets.operations.smoke import NotAnswered, smoke_test
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.stores.home import Home
from mlops_assets_tests.operations.rollback_examples import released, stores_in
from mlops_assets_tests.serving.factory import corrupt, release, small_model


def tell_lies(files: dict[str, bytes]) -> None:
    golden = GoldenRows.from_json(files["golden.json"])
    files["golden.json"] = msgspec.structs.replace(golden, outputs=tuple((0.5, 0.5) for _ in golden.rows)).to_json()


def test_without_a_service_the_bundle_is_asked(tmp_path: Path):
    stores = Stores(Home(tmp_path))
    assert smoke_test(stores, release(stores.home, small_model())).passed
    wrong = smoke_test(stores, release(stores.home, small_model(version=2), damage=tell_lies))
    assert not wrong.passed
    assert "golden rows are answered otherwise" in wrong.why


def test_the_address_of_a_service_that_was_killed_is_not_asked(tmp_path: Path):
    """What a killed supervisor left behind once had the next good release refused and withdrawn."""
    stores = Stores(Home(tmp_path))
    plan = release(stores.home, small_model())
    stores.home.service_address.write_text("http://127.0.0.1:9")
    smoke = smoke_test(stores, plan)
    assert smoke.passed, smoke.why
    assert smoke.why.startswith("no service runs")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    home = Home(tmp_path_factory.mktemp("smoke"))
    for model in (small_model(), small_model("kind", "multiclass"), small_model("air", "regression")):
        release(home, model)
    with running_service(home):
        yield Stores(home)


@pytest.mark.parametrize("model", ["delay", "kind", "air"])
def test_a_running_service_is_asked_and_logs_probes(serving: Stores, model: str):
    smoke = smoke_test(serving, serving.releases.current(model))
    assert smoke.passed, smoke.why
    assert serving.home.service_url() in smoke.why
    records = list(serving.log.records(model))
    assert records
    assert all(record.probe for record in records)


def test_a_service_that_answers_from_another_release_says_nothing_of_this_one(serving: Stores):
    plan = serving.releases.current("delay")
    with pytest.raises(NotAnswered, match="answers from release 1, not 2"):
        smoke_test(serving, msgspec.structs.replace(plan, release=plan.release + 1))


def test_a_champion_whose_bundle_is_lost_has_not_passed(tmp_path: Path):
    stores = stores_in(tmp_path)
    plan = released(stores, 1)
    corrupt(stores.home, plan.champion.bundle)
    smoke = smoke_test(stores, plan)
    assert not smoke.passed
    assert "run run-1 has no folder bundles/" in smoke.why
