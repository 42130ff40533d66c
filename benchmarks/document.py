"""Writes docs/benchmarks.md from the figures in benchmarks/results, so that no number is copied by hand.

Run: ``python -m benchmarks.document``, after the benchmarks. It measures nothing.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks.common import RESULTS, ROOT

TARGET: Final = ROOT / "docs" / "benchmarks.md"
SIZES: Final = (500, 1000, 5000)
DRIFT_DATA: Final = ("flights", "census", "carloan")
SHIFTS: Final = {
    "shift10": "+.1 sd",
    "shift25": "+.25 sd",
    "category5": "5 % of a category moved",
    "missing5": "5 points more missing",
    "new1": "1 % of a new category",
}

SEQUENTIAL_TESTS: Final = {
    "discordant": "errors of pairs",
    "attribution": "errors of a canary",
    "attribution_interrupted": "errors of a canary that is not asked for a third of the time",
    "eprocess": "alarm after the promotion",
    "paired_means": "mean losses of pairs",
    "means": "values of a canary",
    "means_interrupted": "values of a canary that is not asked for a third of the time",
}


def main() -> None:
    """Write the page, from the results that are there."""
    parts = [HEAD, *_speed(), *_drift(), *_estimation(), *_decay(), *_sequential()]
    TARGET.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _speed() -> Iterable[str]:
    found = _results("monitoring_speed")
    yield SPEED
    if not found:
        yield "Not measured yet."
        return
    yield from _table(
        ("", "100,000 rows", "1,000,000 rows"),
        [
            ("Evidently's time over ours", _f(found, "evidently_ratio_100k"), _f(found, "evidently_ratio_1m")),
            ("NannyML's time over ours", _f(found, "nannyml_ratio_100k"), _f(found, "nannyml_ratio_1m")),
            ("the scipy loop's time over ours", _f(found, "naive_ratio_100k"), _f(found, "naive_ratio_1m")),
            ("our time over decoding the file alone", _f(found, "decode_ratio_100k"), _f(found, "decode_ratio_1m")),
            ("our extra memory, MB", "", _f(found, "extra_mb_1m")),
        ],
    )
    yield f"\n10,000,000 rows: {_f(found, 'peak_mb_10m')} MB at the peak, the whole process.\n"


def _drift() -> Iterable[str]:
    found = _results("drift_detection")
    yield DRIFT
    header = ("windows with an alarm, %", *(f"n = {size:,}" for size in SIZES), "NannyML", "Evidently")
    rows = []
    for data in DRIFT_DATA:
        for kind, title in (("iid", "independent rows"), ("calm", "calm stream"), ("order", "real order")):
            name = f"{'alarm' if kind == 'order' else 'false_alarm'}_pct_{data}_{kind}"
            ours = [_f(found, f"{name}_{size}") for size in SIZES]
            peers = [
                " / ".join(_f(found, f"{peer}_{name}_{size}") for size in SIZES) for peer in ("nannyml", "evidently")
            ]
            rows.append((f"{data}, {title}", *ours, *peers))
    yield from _table(header, rows)
    yield DELAY
    header = ("mean delay, n = 500 / 1,000 / 5,000", "ours", "NannyML", "Evidently", "ours, calm stream")
    rows = []
    for data in DRIFT_DATA:
        for shift, title in SHIFTS.items():
            cells = [
                " / ".join(_f(found, f"{who}delay_{data}_{shift}_{size}") for size in SIZES)
                for who in ("", "nannyml_", "evidently_", "calm_")
            ]
            rows.append((f"{data}, {title}", *cells))
    yield from _table(header, rows)


def _estimation() -> Iterable[str]:
    found = _results("estimation")
    yield ESTIMATION
    rows = []
    for data in ("census", "flights", "flights_iid"):
        for size in (1000, 5000):
            of = f"{data}_{size}"
            keys = (
                "auc_mae",
                "nannyml_auc_mae",
                "rolling_auc_mae",
                "speed_ratio",
                "speed_ratio_without_fit",
                "coverage_2se_pct",
            )
            rows.append((f"{data.replace('_', ', ')}, {size:,} rows", *(_f(found, f"{key}_{of}") for key in keys)))
    header = (
        "",
        "ours",
        "NannyML",
        "ours, calibrated anew",
        "NannyML's time over ours",
        "fit left out",
        "within 2 s.e., %",
    )
    yield from _table(header, rows)


def _decay() -> Iterable[str]:
    found = _results("labelled_decay")
    yield DECAY
    rows = []
    for data in ("census", "flights"):
        for size in SIZES:
            of = f"{data}_{size}"
            rows.append(
                (
                    f"{data}, n = {size:,}",
                    *(
                        " / ".join(_f(found, f"{who}delay_flip{flip}_{of}") for flip in (2, 5, 10))
                        for who in ("", "nannyml_", "adwin_")
                    ),
                    *(_f(found, f"{who}false_alarm_pct_{of}") for who in ("", "nannyml_", "adwin_")),
                )
            )
    header = ("", "ours", "NannyML", "ADWIN", "false alarms, %: ours", "NannyML", "ADWIN")
    yield from _table(header, rows)


def _sequential() -> Iterable[str]:
    found = _results("sequential")
    yield SEQUENTIAL
    rows = [
        (title, *(_f(found, f"{figure}_{test}") for figure in ("alpha", "beta", "sample_ratio")))
        for test, title in SEQUENTIAL_TESTS.items()
    ]
    yield from _table(("", "alpha", "beta", "samples over the fixed ones"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _results(name: str) -> dict[str, float]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _f(found: dict[str, float], name: str) -> str:
    value = found.get(name)
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


HEAD = """# Benchmarks of the monitors, and of the tests of releases

Written by `python -m benchmarks.document` from `benchmarks/results/*.json`, which `make bench-monitoring` writes (in an
environment of its own, with the peers) and, for releases, `make bench-sequential`. Everybody is measured in
one run on the same machine, each in a process of its own and on one core; a shared machine with two cores, so that ratios say
more than seconds.
"""
SPEED = """## Speed: `make bench-monitoring-speed`
Twenty features, twelve numbers and eight texts, a reference of 100,000 rows, the window read from a Parquet file and judged.
Evidently 0.7 with its drift preset, NannyML 0.13 univariate, both as they come.
"""
DRIFT = """
## Drift: `make bench-drift-detection`
*Independent rows*: windows drawn at random from held-out rows. *Calm streams*: consecutive blocks resampled from the reference
period, so that no drift is intended. *Real order*: consecutive real windows, where
seasons and faults are; the rate is reported, not judged. 5,000 windows of ours a cell where there are so many (real order: all
there are), at least 200 of the peers' at each size (theirs for 500 / 1,000 / 5,000). The rule was
chosen on flights and census; car loans were looked at once, at the end.
"""
DELAY = """
Mean number of windows until the alarm after a shift; 21 = never.
"""
ESTIMATION = """
## Performance without labels: `make bench-estimation`
Mean absolute error of the estimated against the realised AUC, and time.
"""
DECAY = """
## Decay with labels: `make bench-labelled-decay`
Mean number of windows until the alarm when 2 / 5 / 10 % of the labels are flipped (21 = never), and false alarms before.
"""
SEQUENTIAL = """
## Tests of a release: `make bench-sequential`
Made-up rollouts of good and of bad candidates at error rates that swing; each test's worst situation, nominal 5 % both. `beta`
of the alarm is what it misses. How they do on real flights is in `benchmarks/results/sequential.json` (`real_...`; there
canaries go by the declared share).
"""

if __name__ == "__main__":
    main()
