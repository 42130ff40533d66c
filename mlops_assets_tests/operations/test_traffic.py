"""Sending a model's past to a service: order, batches, labels, and the judgement of the answers."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from mlops_assets.core.records import LabelRecord, PredictionRecord
from mlops_assets.operations.client import PredictionClient, ServiceError
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.supervise import running_service
from mlops_assets.operations.traffic import live_rows, send
from mlops_assets.stores.home import Home
from mlops_assets_tests.serving.factory import release, small_model, small_rows

BEGIN, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, 3, tzinfo=UTC)


def test_a_stretch_of_the_past_is_asked_and_labelled(tmp_path: Path):
    stores, model = Stores(Home(tmp_path)), small_model()
    release(stores.home, model)
    small_rows("binary", 400, seed=5).to_parquet(tmp_path / "rows.parquet")
    source = model.spec.source.model_copy(update={"table": str(tmp_path / "rows.parquet")})
    spec = model.spec.model_copy(update={"source": source})
    rows = live_rows(spec, BEGIN, END)
    assert len(rows) == 180

    with running_service(stores.home) as url, PredictionClient(url) as client:
        traffic = send(spec, client, rows, timedelta(hours=1), singles=10)
        with pytest.raises(ServiceError, match="404"):
            client.predict("nobody", {"features": {}})

    assert traffic.outputs.shape == (180, 2)
    assert (len(traffic.single_ms), len(traffic.batch_ms)) == (10, 3)
    records = list(stores.log.records("delay"))
    predictions = [record for record in records if isinstance(record, PredictionRecord)]
    assert [record.id for record in predictions] == list(traffic.prediction_ids)
    assert [record.event_time for record in predictions] == [time.to_pydatetime() for time in rows["at"]]
    np.testing.assert_array_equal(np.array([record.output for record in predictions])[:, 1], traffic.outputs[:, 1])
    labels = [record for record in records if isinstance(record, LabelRecord)]
    assert len(labels) == traffic.labels == 180
    assert labels[0].observed_at == predictions[0].event_time + spec.label.delay
    assert {label.id: label.value for label in labels} == dict(
        zip(traffic.prediction_ids, rows["outcome"], strict=True)
    )
