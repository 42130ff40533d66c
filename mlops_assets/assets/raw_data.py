"""`raw_data`: the rows known at `as_of`, from the declared source and, once the model is live, from the log."""

from datetime import UTC, datetime

import dagster as dg
import pandas as pd
from pydantic import Field

from mlops_assets.assets.frames import FrameTypes, column_schema
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.schema import read_times
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.history import History, read_history
from mlops_assets.resources import StoresResource
from mlops_assets.sources.errors import SourceError


class RawDataConfig(dg.Config):
    """How much of the past a lifecycle run may know."""

    as_of: str | None = Field(
        default=None,
        description="event time (ISO 8601 with zone) up to which anything may be known; "
        "left out: the newest label observed in the log, else the time the model went live",
    )


def raw_data_asset(spec: ModelSpec, types: FrameTypes) -> dg.AssetsDefinition:
    """The asset that reads the model's history."""

    @dg.asset(
        key=[spec.name, "raw_data"],
        group_name=spec.name,
        pool=lifecycle_pool(spec),
        owners=[spec.owner],
        description=f"Rows of `{spec.name}` known at `as_of`: the declared source, plus labelled answers of the service.",
        dagster_type=types.raw,
        kinds={"pandas"},
        retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
    )
    def raw_data(config: RawDataConfig, stores: StoresResource) -> dg.MaterializeResult:
        try:
            history = read_history(spec, stores.open(), _read_as_of(config.as_of))
        except SourceError as error:
            raise dg.Failure(f"model {spec.name!r}: {error}", allow_retries=False) from error
        return dg.MaterializeResult(
            value=history.frame, data_version=dg.DataVersion(history.data_hash), metadata=_metadata(spec, history)
        )

    return raw_data


def _read_as_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        as_of = datetime.fromisoformat(text)
    except ValueError as error:
        raise dg.Failure(
            f"as_of {text!r} is no ISO 8601 time: write it like 2013-03-01T05:00:00Z", allow_retries=False
        ) from error
    if as_of.tzinfo is None:
        raise dg.Failure(
            f"as_of {text!r} names no time zone: end it with Z or an offset such as -05:00", allow_retries=False
        )
    return as_of.astimezone(UTC)


def _metadata(spec: ModelSpec, history: History) -> dict[str, dg.MetadataValue]:
    frame = history.frame
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(len(frame)),
        "dagster/column_schema": dg.MetadataValue.table_schema(column_schema(frame, spec)),
        "as_of": dg.MetadataValue.timestamp(history.as_of),
        "data_hash": dg.MetadataValue.text(history.data_hash),
        "source_rows": dg.MetadataValue.int(history.source_rows),
        "logged_rows": dg.MetadataValue.int(history.logged_rows),
    }
    if spec.event_time in frame.columns and (times := read_times(frame[spec.event_time])).notna().any():
        metadata["first_event"] = dg.MetadataValue.timestamp(_moment(times.min()))
        metadata["last_event"] = dg.MetadataValue.timestamp(_moment(times.max()))
    return metadata


def _moment(time: pd.Timestamp) -> datetime:
    return time.to_pydatetime()
