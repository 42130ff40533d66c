"""What the detector finds, what it leaves alone, and what it says about it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_assets.core.monitoring.drift import TESTS, DriftDetector, DriftReport, FeatureDrift, WindowTable
from mlops_assets.core.monitoring.groups import profile_groups
from mlops_assets.core.monitoring.profile import Binning, Kind, WindowProfile, profile_frame
from mlops_assets.core.monitoring.reference import ReferenceProfile

ROWS = 400
KINDS: dict[str, Kind] = {"temp": "number", "rain": "number", "carrier": "category", "origin": "category"}


def rows_of(count: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    temp = random.normal(60, 10, count)
    temp[random.random(count) < 0.02] = np.nan
    return pd.DataFrame(
        {
            "temp": temp,
            "rain": random.exponential(1, count),
            "carrier": random.choice(["AA", "UA", "DL", "B6"], count, p=[0.4, 0.3, 0.2, 0.1]),
            "origin": random.choice(["EWR", "JFK", "LGA"], count),
        }
    )


def wandering(blocks: int, scatter: float, seed: int) -> pd.DataFrame:
    """Blocks whose mean temperature differs."""
    frame = rows_of(blocks * ROWS, seed)
    moved = np.random.default_rng(seed + 100).normal(0, scatter, blocks)
    return frame.assign(temp=frame["temp"] + np.repeat(moved, ROWS))


def reference_of(frame: pd.DataFrame, blocks: int = ROWS) -> ReferenceProfile:
    return ReferenceProfile.of(frame, KINDS, None, blocks)


@pytest.fixture(scope="module")
def reference() -> ReferenceProfile:
    return reference_of(rows_of(100 * ROWS))


@pytest.fixture(scope="module")
def detector(reference: ReferenceProfile) -> DriftDetector:
    return DriftDetector(reference)


def judged(detector: DriftDetector, *frames: pd.DataFrame) -> DriftReport:
    return detector.assess([profile_frame(detector.reference.binning, frame) for frame in frames])


def one(report: DriftReport, feature: str) -> FeatureDrift:
    return next(drift for drift in report.features if drift.feature == feature)


def only(report: DriftReport) -> FeatureDrift:
    """The one feature that alarms; it is ranked first."""
    assert [drift.alarm for drift in report.features] == [True, False, False, False], report
    return report.features[0]


def test_the_reference_does_not_alarm_against_itself(reference: ReferenceProfile, detector: DriftDetector) -> None:
    assert not any(drift.alarm for drift in detector.assess([reference.whole]).features)
    table = WindowTable.of(reference.blocks, reference.binning)
    assert not detector.scan(table).alarm.any()


def test_nothing_that_is_as_before_is_called_changed(detector: DriftDetector) -> None:
    report = judged(detector, rows_of(ROWS, seed=1))
    assert not any(drift.alarm for drift in report.features)
    assert {drift.severity for drift in report.features} == {"none"}
    assert report.enough
    assert report.blocks == 100
    assert not report.volume.alarm
    assert sum(drift.importance for drift in report.features) == pytest.approx(1)


def test_a_shift_is_a_change_of_location(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    drift = only(judged(detector, frame.assign(temp=frame["temp"] + 4)))
    assert (drift.feature, drift.test, drift.scale) == ("temp", "location", 1)
    assert drift.p_value < 0.001
    assert drift.severity in ("notice", "warning")
    assert drift.effect == pytest.approx(np.sqrt(drift.psi))
    assert drift.reason.startswith("temp is higher than in the reference: mean rank .59 instead of .50")
    assert drift.reason.endswith(f"({drift.severity})")


def test_a_wider_spread_with_the_same_middle(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    drift = only(judged(detector, frame.assign(temp=60 + (frame["temp"] - 60) * 1.7)))
    assert (drift.feature, drift.test) == ("temp", "spread")
    assert "spread more widely" in drift.reason


def test_fahrenheit_that_becomes_celsius(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    drift = only(judged(detector, frame.assign(temp=(frame["temp"] - 32) / 1.8)))
    assert (drift.feature, drift.severity) == ("temp", "critical")
    assert drift.out_of_range_share > 0.1


def test_another_mix_of_levels(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    frame.loc[frame.index[:60], "carrier"] = "B6"
    drift = only(judged(detector, frame))
    assert drift.feature == "carrier"
    assert drift.test in ("shape", "category mix")
    assert "another mix of levels" in drift.reason
    assert "'B6'" in drift.reason


def test_a_dead_feed(detector: DriftDetector) -> None:
    drift = only(judged(detector, rows_of(ROWS, seed=1).assign(temp=np.nan)))
    assert (drift.feature, drift.test, drift.severity) == ("temp", "missing", "critical")
    assert drift.missing_rate == 1
    assert drift.reference_missing_rate == pytest.approx(0.02, abs=0.002)
    assert drift.reason.startswith("temp is missing in 100 % of the rows instead of 1.9 %")


def test_five_points_more_missing(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    frame.loc[frame.index[:35], "temp"] = np.nan
    assert only(judged(detector, frame)).test == "missing"


def test_fewer_missing_is_no_alarm(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    assert not any(drift.alarm for drift in judged(detector, frame.dropna().reset_index(drop=True)).features)


def test_a_new_level(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    frame.loc[frame.index[:6], "carrier"] = "ZZ"
    drift = only(judged(detector, frame))
    assert (drift.feature, drift.test) == ("carrier", "unseen")
    assert drift.unseen_share == pytest.approx(6 / ROWS)
    assert drift.reason.startswith("carrier has levels that the reference never had in 1.5 % of the rows")


def test_a_sentinel_out_of_range(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    frame.loc[frame.index[:5], "rain"] = -999.0
    drift = only(judged(detector, frame))
    assert (drift.feature, drift.test) == ("rain", "out of range")
    assert drift.out_of_range_share == pytest.approx(5 / ROWS)


@pytest.mark.parametrize(("feature", "value"), [("temp", 61.5), ("carrier", "AA")])
def test_a_feature_that_is_stuck(detector: DriftDetector, feature: str, value: object) -> None:
    drift = only(judged(detector, rows_of(ROWS, seed=1).assign(**{feature: value})))
    assert drift.feature == feature
    assert drift.stuck


def test_a_feature_that_was_always_stuck_is_not_stuck() -> None:
    frame = rows_of(20 * ROWS).assign(rain=0.0)
    report = judged(DriftDetector(reference_of(frame)), rows_of(ROWS, seed=1).assign(rain=0.0))
    assert not any(drift.alarm or drift.stuck for drift in report.features)


def test_half_the_volume(detector: DriftDetector) -> None:
    volume = judged(detector, rows_of(ROWS // 2, seed=1)).volume
    assert volume.alarm
    assert volume.ratio == pytest.approx(0.5, abs=0.01)
    assert "fewer" in volume.reason


def test_a_small_shift_is_found_over_several_windows(detector: DriftDetector) -> None:
    frames = [rows_of(ROWS, seed=seed).assign(temp=lambda frame: frame["temp"] + 1.5) for seed in range(1, 9)]
    assert not one(judged(detector, frames[0]), "temp").alarm
    drift = only(judged(detector, *frames))
    assert drift.scale > 1
    assert f"over the last {drift.scale} windows" in drift.reason


def test_what_is_over_does_not_go_on_alarming(detector: DriftDetector) -> None:
    """Pooled windows used to alarm for seven windows after a fault had ended."""
    fault = rows_of(ROWS, seed=1).assign(temp=np.nan)
    assert not any(drift.alarm for drift in judged(detector, fault, rows_of(ROWS, seed=2)).features)


@pytest.mark.parametrize("rows", [0, 1, 29])
def test_too_few_rows_never_alarm(detector: DriftDetector, rows: int) -> None:
    report = judged(detector, rows_of(ROWS, seed=1).assign(temp=1e9, carrier="ZZ").head(rows))
    assert not report.enough
    assert not any(drift.alarm or drift.stuck for drift in report.features)


def test_an_empty_window_before_the_newest_is_no_obstacle(detector: DriftDetector) -> None:
    frame = rows_of(ROWS, seed=1)
    report = judged(detector, frame.head(0), frame.assign(temp=frame["temp"] + 10))
    assert only(report).feature == "temp"


def test_the_important_come_first_among_those_that_alarm(reference: ReferenceProfile) -> None:
    weighed = ReferenceProfile(
        reference.binning, reference.blocks, reference.whole, {"temp": 0.1, "rain": 0.9, "carrier": 0.0, "origin": 0.0}
    )
    frame = rows_of(ROWS, seed=1)
    report = judged(DriftDetector(weighed), frame.assign(temp=frame["temp"] + 10, rain=frame["rain"] * 2))
    assert [drift.feature for drift in report.features[:2]] == ["rain", "temp"]


@pytest.mark.parametrize("scatter", [False, True])
def test_scan_and_assess_agree(detector: DriftDetector, scatter: bool) -> None:
    if scatter:
        detector = DriftDetector(reference_of(wandering(60, 3, seed=9)))
        assert detector.overdispersed == ("temp",)
    frame = rows_of(12 * ROWS, seed=3)
    frame.loc[frame.index[5 * ROWS :], "temp"] += 2
    frame.loc[frame.index[8 * ROWS :], "origin"] = "LGA"
    windows = profile_groups(detector.reference.binning, frame, np.arange(len(frame)) // ROWS)
    scan = detector.scan(WindowTable.of(windows, detector.reference.binning))
    assert scan.alarm.any()
    for newest in range(len(windows)):
        report = detector.assess(windows[: newest + 1])
        for place, name in enumerate(KINDS):
            drift = one(report, name)
            assert drift.alarm == scan.alarm[newest, place]
            assert drift.stuck == scan.stuck[newest, place]
            assert drift.test == TESTS[scan.test[newest, place]]
            assert drift.scale == scan.scale[newest, place]
            assert drift.p_value == pytest.approx(scan.p_value[newest, place], rel=1e-6, abs=1e-12)
            assert drift.psi == pytest.approx(scan.psi[newest, place])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5))
def test_the_order_of_the_rows_does_not_matter(detector: DriftDetector, seed: int, shift: float) -> None:
    frame = rows_of(ROWS, seed).assign(temp=lambda frame: frame["temp"] + shift)
    assert judged(detector, frame) == judged(detector, frame.sample(frac=1, random_state=seed))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(0, 2))
def test_the_scale_of_a_number_does_not_matter(seed: int, shift: float) -> None:
    """Ranks do not change under a strictly rising transform of reference and window alike."""
    frame, window = rows_of(20 * ROWS, seed), rows_of(ROWS, seed + 1)
    window["rain"] += shift
    plain = one(judged(DriftDetector(reference_of(frame)), window), "rain")
    rising = [rows.assign(rain=np.log(rows["rain"]) ** 3) for rows in (frame, window)]
    bent = one(judged(DriftDetector(reference_of(rising[0])), rising[1]), "rain")
    assert bent.psi == pytest.approx(plain.psi)
    if "out of range" not in (plain.test, bent.test):  # how far out is measured in the feature's own unit
        assert (bent.alarm, bent.test, bent.scale) == (plain.alarm, plain.test, plain.scale)
        assert bent.p_value == pytest.approx(plain.p_value)


def test_false_alarms_on_independent_rows(detector: DriftDetector) -> None:
    frame = rows_of(2_000 * ROWS, seed=77)
    windows = profile_groups(detector.reference.binning, frame, np.arange(len(frame)) // ROWS)
    alarms = detector.scan(WindowTable.of(windows, detector.reference.binning)).alarm.any(axis=1)
    # at most what α = .001 lets happen in 2,000 windows once in a thousand times
    assert alarms.sum() <= stats.binom.isf(0.001, len(windows), 0.001)


def test_windows_larger_than_the_reference_raise_no_false_alarms() -> None:
    """What a small reference says of a share is not exact: it was taken for that, and large windows alarmed."""
    alarms = 0
    for seed in range(40):
        detector = DriftDetector(reference_of(rows_of(20 * ROWS, 1000 + seed)))
        alarms += any(one.alarm for one in judged(detector, rows_of(60 * ROWS, seed)).features)
    assert alarms <= stats.binom.isf(0.001, 40, 0.001)


def test_scatter_between_blocks_is_learned() -> None:
    """A half-day mean that wanders by a standard deviation is no drift when it wanders the same way again."""
    detector = DriftDetector(reference_of(wandering(150, 10, seed=1)))
    assert detector.overdispersed == ("temp",)
    frame = wandering(300, 10, seed=2)
    windows = profile_groups(detector.reference.binning, frame, np.arange(len(frame)) // ROWS)
    scan = detector.scan(WindowTable.of(windows, detector.reference.binning))
    assert scan.alarm.any(axis=1).mean() <= 0.01
    later = rows_of(ROWS, 3)
    assert only(judged(detector, later.assign(temp=later["temp"] + 90))).feature == "temp"


def test_where_few_scattered_blocks_are_known_a_change_must_last() -> None:
    """A holiday week or a storm used to alarm at once where fifty weeks had none like it."""
    detector = DriftDetector(reference_of(wandering(50, 2, seed=1)))
    assert detector.overdispersed == ("temp",)
    window = rows_of(ROWS, 3)
    warm = window.assign(temp=np.minimum(window["temp"] + 14, 85))
    assert not one(judged(detector, window, warm), "temp").alarm
    assert one(judged(detector, window, warm, warm), "temp").alarm
    assert not one(judged(detector, warm, warm, window), "temp").alarm
    assert one(judged(detector, window, window.assign(temp=900.0)), "temp").alarm


def test_what_is_often_nearly_stuck_is_not_stuck() -> None:
    """A window within one day has one weekday, even where no window of the reference lay within one."""
    frame = rows_of(40 * ROWS).assign(origin=["EWR" if row % ROWS >= 20 else "JFK" for row in range(40 * ROWS)])
    drift = one(judged(DriftDetector(reference_of(frame)), rows_of(ROWS, seed=1).assign(origin="EWR")), "origin")
    assert not drift.stuck


@pytest.mark.parametrize("blocks", [0, 1, 3, 7])
def test_with_few_blocks_only_large_changes_alarm(blocks: int) -> None:
    frame = rows_of(8 * ROWS)
    full = reference_of(frame)
    detector = DriftDetector(ReferenceProfile(full.binning, full.blocks[:blocks], full.whole, full.importance))
    window = rows_of(ROWS, seed=1)
    assert "only large changes alarm" in detector.assess([full.whole]).confidence
    assert not any(drift.alarm for drift in judged(detector, window.assign(temp=window["temp"] + 2)).features)
    assert only(judged(detector, window.assign(temp=window["temp"] + 20))).feature == "temp"
    assert only(judged(detector, window.assign(temp=np.nan))).test == "missing"


def test_confidence_grows_with_the_blocks() -> None:
    frame = rows_of(140 * ROWS)
    frame["temp"] += np.repeat(np.random.default_rng(1).normal(0, 10, 140), ROWS)
    words = []
    for blocks in (8, 40, 140):
        detector = DriftDetector(reference_of(frame.head(blocks * ROWS)))
        words.append(detector.assess([detector.reference.whole]).confidence)
    assert "weak" in words[0]
    assert "fair" in words[1]
    assert "about 1 %" in words[2]


def test_another_binning_is_refused(detector: DriftDetector) -> None:
    other = Binning.of(rows_of(50), {"temp": "number"})
    with pytest.raises(ValueError, match="profile it with the binning of this reference"):
        detector.assess([WindowProfile.empty(other)])
    with pytest.raises(ValueError, match="no window"):
        detector.assess([])


def test_a_summer_after_few_scattered_winter_days() -> None:
    """Days so far apart that a record is nothing new once hid that all rows lay where no row had ever been."""
    watchful = DriftDetector(reference_of(wandering(20, 15.0, seed=1)))
    high = max(bins.high for bins in watchful.reference.binning.features if bins.name == "temp")
    summer = rows_of(ROWS, seed=2)
    summer["temp"] = summer["temp"] - summer["temp"].min() + high + 0.1
    found = one(judged(watchful, summer, summer), "temp")
    assert (found.alarm, found.test, found.severity) == (True, "out of range", "critical")
