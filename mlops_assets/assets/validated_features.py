"""`validated_features` and `quarantine`: the rows that hold the declared contract, and the others with their reasons."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd

from mlops_assets.assets.frames import FrameTypes, column_schema, records_table
from mlops_assets.assets.pools import lifecycle_pool
from mlops_assets.core.schema import Validation, validate
from mlops_assets.core.spec import ModelSpec


def validated_features_asset(spec: ModelSpec, types: FrameTypes) -> dg.AssetsDefinition:
    """The pair of assets that splits the raw rows, with the checks that gate them."""
    key = dg.AssetKey([spec.name, "validated_features"])

    @dg.multi_asset(
        name=f"{spec.name}__validated_features",
        group_name=spec.name,
        pool=lifecycle_pool(spec),
        outs={
            "validated_features": dg.AssetOut(
                key=key,
                owners=[spec.owner],
                dagster_type=types.validated,
                kinds={"pandas", "pandera"},
                description="Rows that hold the declared contract.",
            ),
            "quarantine": dg.AssetOut(
                key=[spec.name, "quarantine"],
                owners=[spec.owner],
                dagster_type=types.quarantine,
                kinds={"pandas"},
                description="Rows that break the declared contract, as received, with the reasons.",
            ),
        },
        ins={"raw_data": dg.AssetIn([spec.name, "raw_data"], dagster_type=types.raw)},
        check_specs=[
            dg.AssetCheckSpec(
                "columns_as_declared",
                asset=key,
                blocking=True,
                description="Every declared column is there, of its type.",
            ),
            dg.AssetCheckSpec(
                "quarantined_share",
                asset=key,
                blocking=True,
                description=f"At most {spec.quality.max_quarantined_share:.2%} of the rows break the contract.",
            ),
            dg.AssetCheckSpec(
                "enough_rows",
                asset=key,
                blocking=True,
                description=f"At least {spec.quality.min_rows} valid rows are left.",
            ),
            dg.AssetCheckSpec(
                "known_domain", asset=key, description="No value lies outside the known levels and ranges."
            ),
        ],
    )
    def validated_features(raw_data: pd.DataFrame) -> Iterator[dg.Output[pd.DataFrame] | dg.AssetCheckResult]:
        validation = validate(spec, raw_data)
        yield _output(spec, "validated_features", validation.valid, raw_data, {"valid_rows": len(validation.valid)})
        quarantined = {
            "quarantined_rows": len(validation.quarantine),
            "quarantined_share": validation.quarantined_share,
        }
        yield _output(spec, "quarantine", validation.quarantine, raw_data, quarantined)
        yield from _checks(spec, key, validation)

    return validated_features


def _output(
    spec: ModelSpec, name: str, frame: pd.DataFrame, raw: pd.DataFrame, numbers: dict[str, float]
) -> dg.Output[pd.DataFrame]:
    frame.attrs = dict(raw.attrs)
    metadata: dict[str, Any] = {
        "dagster/row_count": len(frame),
        "dagster/column_schema": dg.MetadataValue.table_schema(column_schema(frame, spec)),
        **numbers,
    }
    return dg.Output(frame, output_name=name, metadata=metadata)


def _checks(spec: ModelSpec, key: dg.AssetKey, validation: Validation) -> Iterator[dg.AssetCheckResult]:
    failure_cases = {"failure_cases": records_table(validation.failures)}
    share, rows = validation.quarantined_share, len(validation.valid)
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="columns_as_declared",
        passed=not validation.structural,
        description="; ".join(validation.structural) or "all declared columns are there",
        metadata={"problems": len(validation.structural), **failure_cases},
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="quarantined_share",
        passed=share <= spec.quality.max_quarantined_share,
        description=f"{len(validation.quarantine)} of {validation.rows} rows quarantined ({share:.3%})",
        metadata={"share": share, "limit": spec.quality.max_quarantined_share, **failure_cases},
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="enough_rows",
        passed=rows >= spec.quality.min_rows,
        description=f"{rows} valid rows, at least {spec.quality.min_rows} wanted",
        metadata={"rows": rows, "limit": spec.quality.min_rows},
    )
    outside = validation.out_of_domain
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="known_domain",
        passed=not outside,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{name}: {count} rows" for name, count in outside.items())
        or "all values are known ones",
        metadata={"features": len(outside), "rows": sum(outside.values())},
    )
