"""Trials in a real service with two workers: what it logs is the evidence, and what follows reaches its callers."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.core.training import predict
from mlops_assets.operations.client import PredictionClient
from mlops_assets.operations.live_traffic import ingest
from mlops_assets.operations.supervise import running_service
from mlops_assets_tests.operations.trial_examples import Trying
from mlops_assets_tests.serving.factory import small_model
from mlops_assets_tests.waiting import wait_until

AT_ONCE = 200
CANARY = {"shares": [0.3, 0.5], "min_samples": 30}
RULES = {"strategy": "shadow-then-canary", "shadow": {"min_samples": 50}, "canary": CANARY}


class Callers:
    """Ask for rows and tell the truth about them afterwards, which is what one version says."""

    def __init__(self, trying: Trying, url: str, oracle: int) -> None:
        self.trying, self.client = trying, PredictionClient(url, home=trying.stores.home)
        model = small_model(version=oracle)
        self.rows = model.request_rows(400)
        answers = predict(model.pipeline, model.fresh[list(model.features)])[:, 1]
        self.truths = [int(one >= model.manifest.threshold) for one in answers]
        self.answered: list[int] = []

    def ask(self) -> None:
        spec, items, labels = self.trying.spec, [], []
        for _ in range(AT_ONCE):
            self.trying.asked += 1
            number = self.trying.asked
            at = (spec.live_from + timedelta(minutes=number)).isoformat()
            features: dict[str, Any] = self.rows[number % len(self.rows)]
            items.append({"id": f"r{number}", "entity": f"E{number}", "event_time": at, "features": features})
            labels.append({"id": f"r{number}", "value": self.truths[number % len(self.rows)]})
        champion = self.trying.plan.champion.version
        for answer in self.client.predict_many(spec.name, items):
            self.answered.append(answer.get("model_version", champion))
        self.client.feedback(spec.name, labels)

    def _is_sealed(self) -> bool:
        return not any(one.records for one in self.trying.stores.log.segments() if not one.sealed)

    def until(self, step: str, most: int = 40) -> list[str]:
        """Ask until a step is done; all steps that were done."""
        for _ in range(most):
            self.ask()
            # What is not sealed is no evidence yet, and a quick machine would ask in vain.
            wait_until(self._is_sealed)
            ingest(self.trying.stores, [self.trying.spec])
            self.trying.advance()
            if self.trying.steps[-1:] == [step]:
                break
        return self.trying.steps


@pytest.mark.slow
def test_a_good_version_takes_over_and_a_bad_one_goes_before_most_callers_notice(tmp_path: Path):
    trying = Trying(tmp_path, **RULES)
    with running_service(
        trying.stores.home, workers=2, ready_timeout=240, environment={"MLOPS_LOG_SEGMENT_SECONDS": "1"}
    ) as url:
        callers = Callers(trying, url, oracle=2)
        trying.start(2)
        assert callers.until("promote") == ["canary", "widen", "promote"]
        assert trying.plan.champion.version == 2
        assert {1, 2} == set(callers.answered), "in the canary both answer"

        trying.spec = Trying.declared(strategy="canary", canary={"shares": [0.05], "min_samples": 30})
        callers.answered.clear()
        trying.start(3)
        assert callers.until("dismiss")[-1] == "dismiss"
        assert (trying.plan.champion.version, trying.plan.withdrawn) == (2, (3,))
        touched = callers.answered.count(3) / len(callers.answered)
        assert 0 < touched < 0.1
        before = len(callers.answered)
        callers.ask()
        assert set(callers.answered[before:]) == {2}
