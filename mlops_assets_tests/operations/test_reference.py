"""What a bundle knows of its model's reference: built at release, read back, and testing nothing against itself as changed."""

import numpy as np
import pytest

from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.operations.reference import Reference, expected_losses, score_frame
from mlops_assets.stores.bundles import Bundle
from mlops_assets_tests.operations.watched import LIVE_FROM, watched_fit, watched_rows


def reference(task: str) -> Reference:
    fit = watched_fit(task)  # type: ignore[arg-type]
    found = Reference.of(fit.spec, Bundle("sha256:test", fit.manifest, fit.files))
    assert found is not None
    return found


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_reference_is_made_of_whole_windows_and_held_out_rows(task: str):
    found = reference(task)
    assert len(found.profile.blocks) == 60  # 1 January to 29 February
    assert len(found.score_profile.blocks) == 45  # more than the 20 days held out: earlier ones too, out of sample
    assert {block.rows for block in found.profile.blocks} == {120}
    assert len(found.held_out.performance.blocks) == 45
    assert sum(found.profile.importance.values()) == pytest.approx(1)
    assert found.profile.importance["wind"] > found.profile.importance["night"]
    assert found.held_out.metrics
    assert (found.held_out.calibration is None) == (task == "regression")


def test_windows_that_the_training_cuts_off_are_no_blocks():
    fit = watched_fit("binary")
    keys = Windows.of(fit.spec).keys(watched_rows("binary", LIVE_FROM, 2, seed=1)["at"])
    assert sorted(set(keys)) == ["2024-03-01", "2024-03-02"]


def test_a_bundle_without_a_reference_says_so():
    fit = watched_fit("binary")
    files = {name: data for name, data in fit.files.items() if name.startswith(("scorer", "golden"))}
    assert Reference.of(fit.spec, Bundle("sha256:test", fit.manifest, files)) is None


def test_the_same_training_makes_the_same_files():
    fit = watched_fit("binary")
    watched_fit.cache_clear()
    assert watched_fit("binary").files == fit.files


def test_scores_are_those_of_the_positive_class():
    assert list(score_frame(np.array([[0.2, 0.8]]))["output_0"]) == [0.8]
    assert list(score_frame(np.array([[0.2, 0.5, 0.3]]))) == ["output_0", "output_1", "output_2"]
    assert list(score_frame(np.array([[7.0]]))["output_0"]) == [7.0]


def test_expected_losses_are_never_negative():
    class Below:
        features = ("wind",)

        def score_columns(self, columns: dict[str, np.ndarray]) -> np.ndarray:
            return np.array([[-1.0], [2.0]])

    rows = watched_rows("regression", LIVE_FROM, 1, seed=1).head(2)
    assert expected_losses(Below(), rows).tolist() == [0.0, 2.0]  # type: ignore[arg-type]
