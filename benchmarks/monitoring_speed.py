"""How long does it take to judge a window of data, and how much memory? Ours against Evidently, NannyML and a scipy loop.

Twenty features, twelve numbers and eight texts; a reference of 100,000 rows; windows of 100,000 and 1,000,000 rows in a Parquet
file, read anew in each run. Whatever can be prepared from the reference (our detector, NannyML's fit) is not timed. Everybody has
one core and a process of their own. Run: ``python -m benchmarks.monitoring_speed``.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.common import Figures, Measured, measured, save, table

NAME: Final = "monitoring_speed"
REFERENCE_ROWS: Final = 100_000
BLOCK_ROWS: Final = 1_000
WINDOWS: Final = {"100k": 100_000, "1m": 1_000_000}
LARGE: Final = "10m"
# Runs in one process; the quickest counts, so that a busy machine is unfair to nobody.
REPEATS: Final = {
    "ours": {"100k": 30, "1m": 10, LARGE: 1},
    "decode": {"100k": 30, "1m": 10, LARGE: 1},
    "naive": {"100k": 7, "1m": 3},
    "nannyml": {"100k": 7, "1m": 3},
    "evidently": {"100k": 3, "1m": 1},
}
TITLES: Final = {
    "ours": "ours: profile the file, judge the window",
    "decode": "decoding the file alone (texts as dictionaries)",
    "naive": "KS and χ² in a loop (scipy, pandas)",
    "nannyml": "NannyML, univariate drift by default",
    "evidently": "Evidently, drift preset by default",
}


def main() -> None:
    """Measure everybody, print the table and write the figures."""
    with tempfile.TemporaryDirectory(prefix="monitoring-speed-") as name:
        folder = Path(name)
        _write_files(folder)
        done: dict[tuple[str, str], Measured] = {}
        for contender, sizes in REPEATS.items():
            for size, repeats in sizes.items():
                prepare = f"benchmarks.monitoring_speed:{contender}"
                done[contender, size] = measured(prepare, repeats, folder=str(folder), size=size)
    figures = _figures(done)
    _print(done, figures)
    save(NAME, figures)


# ---- the contenders: each prepares itself, and returns the work


def ours(folder: str, size: str) -> Callable[[], Any]:
    """Profile the file and judge it after seven windows before it, whose profiles are kept."""
    from benchmarks.data import made_up
    from mlops_assets.core.monitoring.drift import DriftDetector
    from mlops_assets.core.monitoring.profile import profile_parquet
    from mlops_assets.core.monitoring.reference import ReferenceProfile

    file = Path(folder) / f"{size}.parquet"
    known = made_up(REFERENCE_ROWS)
    reference = ReferenceProfile.of(known.frame, known.kinds, known.times, BLOCK_ROWS)
    detector = DriftDetector(reference)
    before = list(reference.merged(10)[-7:])

    def work() -> Any:
        report = detector.assess([*before, profile_parquet(reference.binning, file)])
        return {"rows": report.rows, "alarms": sum(one.alarm for one in report.features)}

    return work


def decode(folder: str, size: str) -> Callable[[], Any]:
    """Read every column of the file as `ours` does, and do nothing with it."""
    from mlops_assets.core.monitoring.profile import open_parquet, read_column

    file = Path(folder) / f"{size}.parquet"
    texts, columns = _columns(file)

    def work() -> Any:
        with open_parquet(file, texts) as opened:
            cells = sum(len(column) for name in columns for column in read_column(opened, name))
            return {"rows": cells // len(columns)}

    return work


def naive(folder: str, size: str) -> Callable[[], Any]:
    """What many a script does: one test after the other on the raw columns."""
    import pandas as pd
    from scipy import stats

    file = Path(folder) / f"{size}.parquet"
    texts, columns = _columns(file)
    reference = pd.read_parquet(Path(folder) / "reference.parquet", columns=columns)

    def work() -> Any:
        window = pd.read_parquet(file, columns=columns)
        alarms = 0
        for name in columns:
            if name in texts:
                both = pd.concat([reference[name].value_counts(), window[name].value_counts()], axis=1).fillna(0)
                p_value = stats.chi2_contingency(both.to_numpy().T).pvalue
            else:
                p_value = stats.ks_2samp(reference[name].dropna(), window[name].dropna()).pvalue
            alarms += int(p_value < 0.05)
        return {"rows": len(window), "alarms": alarms}

    return work


def nannyml(folder: str, size: str) -> Callable[[], Any]:
    """Jensen-Shannon distance of ten chunks, against three standard deviations of the reference's chunks."""
    import pandas as pd
    from nannyml import UnivariateDriftCalculator

    file = Path(folder) / f"{size}.parquet"
    _, columns = _columns(file)
    calculator = UnivariateDriftCalculator(column_names=columns)
    calculator.fit(pd.read_parquet(Path(folder) / "reference.parquet", columns=columns))

    def work() -> Any:
        window = pd.read_parquet(file, columns=columns)
        drift = calculator.calculate(window).to_df()
        alerts = drift.loc[:, [column for column in drift.columns if column[-1] == "alert"]]
        return {"rows": len(window), "alarms": int(alerts.to_numpy().astype(bool).sum())}

    return work


def evidently(folder: str, size: str) -> Callable[[], Any]:
    """The drift preset as it comes: Wasserstein and Jensen-Shannon distances of windows as large as these."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    file = Path(folder) / f"{size}.parquet"
    texts, columns = _columns(file)
    numbers = [name for name in columns if name not in texts]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    known = pd.read_parquet(Path(folder) / "reference.parquet", columns=columns)
    reference = Dataset.from_pandas(known, data_definition=definition)

    def work() -> Any:
        window = pd.read_parquet(file, columns=columns)
        report = Report([DataDriftPreset()])
        snapshot = report.run(Dataset.from_pandas(window, data_definition=definition), reference)
        drifted = snapshot.dict()["metrics"][0]["value"]
        return {"rows": len(window), "alarms": int(drifted["count"])}

    return work


# ---- files and figures


def _write_files(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from benchmarks.common import SEED
    from benchmarks.data import made_up

    def rows_of(rows: int, seed: int) -> pa.Table:
        made = made_up(rows, seed)
        return pa.Table.from_pandas(made.frame.assign(event_time=made.times), preserve_index=False)

    parquet.write_table(rows_of(REFERENCE_ROWS, SEED), folder / "reference.parquet", compression="zstd")
    for place, (size, rows) in enumerate(WINDOWS.items(), 1):
        last = rows_of(rows, SEED + place)
        parquet.write_table(last, folder / f"{size}.parquet", compression="zstd")
    # ten million rows are the million ten times over: for memory and time it makes no difference
    with parquet.ParquetWriter(folder / f"{LARGE}.parquet", last.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(last)


def _columns(file: Path) -> tuple[list[str], list[str]]:
    """Names of the text columns, and of all features."""
    from pyarrow import parquet

    columns = [name for name in parquet.read_schema(file).names if name != "event_time"]
    return [name for name in columns if name.startswith("text")], columns


def _figures(done: dict[tuple[str, str], Measured]) -> Figures:
    figures: dict[str, float | int | None] = {}
    for (contender, size), one in done.items():
        figures[f"{contender}_s_{size}"] = one.timing.minimum
        if contender not in ("ours", "decode"):
            figures[f"{contender}_ratio_{size}"] = one.timing.minimum / done["ours", size].timing.minimum
            figures[f"{contender}_extra_mb_{size}"] = one.extra_mb
    for size in REPEATS["ours"]:
        figures[f"decode_ratio_{size}"] = done["ours", size].timing.minimum / done["decode", size].timing.minimum
        figures[f"extra_mb_{size}"] = done["ours", size].extra_mb
        figures[f"peak_mb_{size}"] = done["ours", size].peak_mb
    return figures


def _print(done: dict[tuple[str, str], Measured], figures: Figures) -> None:
    sizes = [*WINDOWS, LARGE]
    rows = []
    for contender, title in TITLES.items():
        row: list[object] = [title]
        for size in sizes:
            one = done.get((contender, size))
            ours_s = done["ours", size].timing.minimum
            row += (
                [None, None, None] if one is None else [one.timing.minimum, one.timing.minimum / ours_s, one.extra_mb]
            )
        rows.append(row)
    columns = [f"{unit} {size}" for size in sizes for unit in ("s", "× ours", "extra MB")]
    table("One window of 20 features against a reference of 100,000 rows, from Parquet, one core", ["", *columns], rows)
    table(
        "Ours",
        ["", *sizes],
        [
            ["× the time to decode the file", *(figures[f"decode_ratio_{size}"] for size in sizes)],
            ["peak of the whole process, MB", *(figures[f"peak_mb_{size}"] for size in sizes)],
        ],
    )


if __name__ == "__main__":
    main()
