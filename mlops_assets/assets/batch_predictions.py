"""`batch_predictions`: the declared table, answered by the model in service; of the rows without an answer, why."""

import dagster as dg
import pandas as pd

from mlops_assets.assets.checks import check_specs
from mlops_assets.assets.frames import records_table
from mlops_assets.assets.numbers import plotted
from mlops_assets.assets.partitions import partitions_of
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.spec.batch import BatchSpec
from mlops_assets.operations.batch import Batch, BatchRefused, score_table
from mlops_assets.resources import StoresResource
from mlops_assets.sources.errors import SourceError

CHECK = "quarantined_share"


def batch_predictions_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """The asset that scores the declared table, or one table a window as partitions; none where no table is declared."""
    return [] if spec.batch is None else [_asset(spec, spec.batch)]


def _asset(spec: ModelSpec, batch: BatchSpec) -> dg.AssetsDefinition:
    key = dg.AssetKey([spec.name, "batch_predictions"])
    limit = spec.quality.max_quarantined_share if batch.max_quarantined_share is None else batch.max_quarantined_share

    @dg.asset(
        key=key,
        group_name=spec.name,
        owners=[spec.owner],
        description=f"Answers of the `{spec.name}` in service to every row of {batch.input}, in {batch.output}.",
        kinds={"parquet" if batch.output.endswith(".parquet") else "csv"},
        deps=[dg.AssetKey([spec.name, "deployed_bento"])],
        partitions_def=partitions_of(spec) if batch.by_window else None,
        backfill_policy=dg.BackfillPolicy.single_run() if batch.by_window else None,
        retry_policy=dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL),
        check_specs=check_specs(key, {CHECK: f"At most {limit:.2%} of the rows could not be scored."}),
    )
    def batch_predictions(context: dg.AssetExecutionContext, stores: StoresResource) -> dg.MaterializeResult:
        windows = sorted(context.partition_keys) if batch.by_window else [None]
        done = []
        for window in windows:
            source, output = batch.paths(window)
            try:
                done.append(score_table(spec, stores.open(), source, output))
            except (BatchRefused, SourceError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            context.add_asset_metadata(_metadata(done[-1]), asset_key=key, partition_key=window)
        return dg.MaterializeResult(check_results=[_quarantined_share(done, limit)])

    return batch_predictions


def _metadata(done: Batch) -> dict[str, dg.MetadataValue]:
    numbers = {
        "dagster/row_count": done.scored,
        "rows": done.rows,
        "scored": done.scored,
        "quarantined": done.quarantined,
        "quarantined_share": done.quarantined_share,
        "seconds": done.seconds,
        "rows_per_s": done.rows_per_s,
        "version": done.version,
        "release": done.release,
    }
    return {
        **plotted(numbers),
        "role": dg.MetadataValue.text(done.role or "by its number"),
        "masked": dg.MetadataValue.text(", ".join(done.masked) or "nothing"),
        "path": dg.MetadataValue.path(done.output),
        "quarantine": dg.MetadataValue.path(done.quarantine),
        "reasons": records_table(pd.DataFrame(list(done.reasons), columns=["reason", "rows"])),
    }


def _quarantined_share(done: list[Batch], limit: float) -> dg.AssetCheckResult:
    worst = max(done, key=lambda one: one.quarantined_share)
    reason = f"; most often {worst.reasons[0][0]}" if worst.reasons else ""
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=worst.quarantined_share <= limit,
        description=f"{worst.quarantined} of {worst.rows} rows of {worst.output} have no answer "
        f"({worst.quarantined_share:.3%}){reason}",
        metadata={
            "share": worst.quarantined_share,
            "limit": limit,
            "quarantine": dg.MetadataValue.path(worst.quarantine),
        },
    )
