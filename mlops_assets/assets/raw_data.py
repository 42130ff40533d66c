"""`raw_data`: the rows known at `as_of`, from the declared source and, once the model is live, from the log."""

from datetime import UTC, datetime
from typing import get_args

import dagster as dg
import msgspec
import pandas as pd
from pydantic import Field, ValidationError

from mlops_assets.assets.frames import FrameTypes, column_schema
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.schema import read_times
from mlops_assets.core.spec import ModelSpec, format_duration
from mlops_assets.core.training_request import TrainingRequest, Trigger, request_of
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
    trigger: str = Field(
        default="hand",
        description=f"why a candidate is trained: {', '.join(get_args(Trigger))}; one that 'drift' asks for must be better than "
        "the champion, with confidence",
    )
    without: list[str] = Field(
        default_factory=list,
        description="features that are taken for missing in all rows, and so left out of the model",
    )
    window: str | None = Field(
        default=None, description="length of the rolling training window, such as '90d', instead of the declared one"
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
        as_of, request = read_as_of(config.as_of), read_request(spec, config)
        try:
            history = read_history(spec, stores.open(), as_of, request)
        except SourceError as error:
            raise dg.Failure(f"model {spec.name!r}: {error}", allow_retries=False) from error
        return dg.MaterializeResult(
            value=history.frame,
            data_version=dg.DataVersion(history.data_hash),
            metadata={**_metadata(spec, history), **_asked(request)},
        )

    return raw_data


def read_as_of(text: str | None) -> datetime | None:
    """An event time as configured; fails with what is wrong with it."""
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


def read_request(spec: ModelSpec, config: RawDataConfig) -> TrainingRequest:
    """What the run is asked to do otherwise than declared; a wrong wish fails here, before anything is read."""
    unknown = [name for name in config.without if name not in spec.feature_names or not spec.feature(name).nullable]
    if unknown:
        allowed = ", ".join(one.name for one in spec.features if one.nullable)
        raise dg.Failure(
            f"without: model {spec.name!r} cannot be trained without {', '.join(map(repr, unknown))}; "
            f"choose of {allowed or 'none'}",
            allow_retries=False,
        )
    try:
        return request_of(
            {"trigger": config.trigger, "without": ",".join(config.without), "window": config.window or ""}
        )
    except msgspec.ValidationError as error:
        raise dg.Failure(
            f"trigger {config.trigger!r} is none: write one of {', '.join(get_args(Trigger))}", allow_retries=False
        ) from error
    except ValidationError as error:
        raise dg.Failure(
            f"window {config.window!r} is no duration: write it like '90d' or '36h'", allow_retries=False
        ) from error


def _asked(request: TrainingRequest) -> dict[str, dg.MetadataValue]:
    asked = {"trigger": request.trigger, "without": ", ".join(request.without)}
    if request.window is not None:
        asked["window"] = format_duration(request.window)
    return {name: dg.MetadataValue.text(text) for name, text in asked.items() if text}


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
