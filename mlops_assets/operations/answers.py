"""The answers of one window as the monitors read them: from the table of live traffic to arrays, with the labels that are known."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_assets.core.live_traffic import FEATURE, OUTPUT, SHED
from mlops_assets.core.metrics import Floats
from mlops_assets.core.monitoring.health import ServiceRecord
from mlops_assets.core.records import SHADOW
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.training import encode_label


@dataclass(frozen=True)
class Answers:
    """The answered rows of one window, and all its requests. `output` has shape (n, K) or (n, 1), in the order of `rows`."""

    rows: pd.DataFrame
    requests: pd.DataFrame
    output: Floats
    version: int | None
    bundle: str | None

    @property
    def features(self) -> pd.DataFrame:
        """The features as they were received, by their own names."""
        named = [column for column in self.rows.columns if column.startswith(FEATURE)]
        return self.rows[named].set_axis([name.removeprefix(FEATURE) for name in named], axis="columns")

    def of_one_version(self) -> "Answers":
        """Those of the champion that answered most: a window with a release or a canary in it is judged by one model's answers."""
        own = (self.rows["bundle"] == self.bundle).to_numpy()
        return replace(self, rows=self.rows[own].reset_index(drop=True), output=self.output[own])


@dataclass(frozen=True)
class Labelled:
    """Labelled answers of one bundle's model: which rows of the window they are, truth and output, and when the truth was known."""

    bundle: str | None
    at: NDArray[np.bool_]
    truth: Floats
    output: Floats
    observed: "pd.Series[pd.Timestamp]"

    @property
    def outcomes(self) -> "Outcomes":
        """What later windows need of them."""
        observed = self.observed.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
        return Outcomes(self.bundle, self.truth, self.output, observed)


@dataclass(frozen=True)
class Outcomes:
    """Truths and outputs of one bundle's model, and when each truth was known, in UTC: a thousand windows of them are walked."""

    bundle: str | None
    truth: Floats
    output: Floats
    observed: NDArray[np.datetime64]

    def known_at(self, moment: datetime) -> tuple[Floats, Floats]:
        """Truths and outputs of those that were known at a moment."""
        known = self.observed <= np.datetime64(moment.astimezone(UTC).replace(tzinfo=None))
        return (self.truth, self.output) if known.all() else (self.truth[known], self.output[known])


def answers_of(table: pd.DataFrame) -> Answers:
    """All that was asked and answered; the version is the champion's, or that of another model which stood in for it.

    A canary answers callers, and is not what the monitors judge, however large its share; a shadow answers nobody. What a constant
    answered is a request that was answered, and says nothing of any model.
    """
    requests = table[table["role"] != SHADOW].reset_index(drop=True)
    rows = requests[(requests["status"] == 200) & (requests["role"] != "fallback")].reset_index(drop=True)
    outputs = sorted(
        (name for name in map(str, rows) if name.startswith(OUTPUT)), key=lambda name: int(name[len(OUTPUT) :])
    )
    output = rows[outputs].to_numpy(dtype=np.float64)
    if rows.empty:
        return Answers(rows, requests, output, None, None)
    judged = rows[rows["role"] != "challenger"]
    bundle = str((rows if judged.empty else judged)["bundle"].mode().iloc[0])
    return Answers(rows, requests, output, int(rows.loc[rows["bundle"] == bundle, "version"].iloc[0]), bundle)


def labelled_of(spec: ModelSpec, answers: Answers, classes: tuple[str | int, ...]) -> Labelled:
    """The answers whose label has come; one that is none of the model's classes counts as not labelled."""
    at = answers.rows["label"].notna().to_numpy(dtype=bool) & np.isfinite(answers.output).all(axis=1)
    if spec.task != "regression":
        texts = {text for one in classes for text in (str(one), f"{one}.0")}
        at &= answers.rows["label"].map(str).isin(texts).to_numpy(dtype=bool)
    labels = answers.rows["label"][at]
    if spec.task != "regression" and all(isinstance(one, int) for one in classes):
        labels = labels.astype(float)
    truth = encode_label(spec, labels, classes)
    return Labelled(answers.bundle, at, truth, answers.output[at], answers.rows["label_observed_at"][at])


def service_record(answers: Answers) -> ServiceRecord:
    """How the service did, whatever the answers were worth."""
    status = answers.requests["status"]
    shed = int(status.isin(SHED).sum())
    refused = int(((status >= 400) & (status < 500) & ~status.isin(SHED)).sum())
    failed = int((status != 200).sum()) - shed - refused
    latency = answers.rows["latency_ms"]
    p50, p99 = np.quantile(latency, [0.5, 0.99]) if len(latency) else (float("nan"),) * 2
    return ServiceRecord(len(status), refused, failed, shed, float(p50), float(p99))
