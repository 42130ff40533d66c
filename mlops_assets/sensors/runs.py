"""What Dagster has recorded of a model's runs, in the words of `core/carrying.py`."""

from collections.abc import Iterator

import dagster as dg

from mlops_assets.core.carrying import Gate, KnownRun, RunState
from mlops_assets.operations.carry_out import ATTEMPT_TAG, DECISION_TAG

MOST_ENDED = 20
_STATES: dict[dg.DagsterRunStatus, RunState] = {
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "cancelled",
}
_MOST_OF_AN_ERROR = 500


class InstanceRuns:
    """The runs of one model on a Dagster instance."""

    are_known = True

    def __init__(self, instance: dg.DagsterInstance, model: str) -> None:
        self._instance, self._model = instance, model

    def of(self, decision: str) -> tuple[KnownRun, ...]:
        """Those that a decision has asked for, oldest first."""
        found = self._instance.get_run_records(dg.RunsFilter(tags={DECISION_TAG: decision}))
        return tuple(self._known(record.dagster_run) for record in reversed(found))

    def ended(self, job: str) -> tuple[KnownRun, ...]:
        """The last ones of the job `<model>_<job>` that have ended, newest first; none from before the last that succeeded."""
        wanted = dg.RunsFilter(job_name=f"{self._model}_{job}", statuses=list(_STATES))
        runs = []
        for record in self._instance.get_run_records(wanted, limit=MOST_ENDED):
            runs.append(self._known(record.dagster_run))
            if runs[-1].has_worked:
                break
        return tuple(runs)

    def decision_of(self, run: str) -> str | None:
        """The decision that asked for a run; None where it is not known, or nobody's."""
        known = self._instance.get_run_by_id(run)
        return None if known is None else known.tags.get(DECISION_TAG)

    def is_over(self, run: str) -> bool:
        """Has a run ended? One that this instance does not know has not."""
        known = self._instance.get_run_by_id(run)
        return known is not None and known.status in _STATES

    def _known(self, run: dg.DagsterRun) -> KnownRun:
        state = _STATES.get(run.status, "under way")
        attempt = int(run.tags.get(ATTEMPT_TAG, 0))
        if state != "failed":
            return KnownRun(run.run_id, state, attempt)
        return KnownRun(run.run_id, state, attempt, tuple(self._refusals(run.run_id)), self._error(run.run_id))

    def _refusals(self, run: str) -> Iterator[Gate]:
        for event in self._events(run, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            check = event.asset_check_evaluation_data
            if not check.passed and check.blocking and check.severity == dg.AssetCheckSeverity.ERROR:
                yield Gate(check.check_name, check.description or "not passed")

    def _error(self, run: str) -> str:
        for event in self._events(run, dg.DagsterEventType.STEP_FAILURE):
            if (error := event.step_failure_data.error) is not None:
                cause = error.cause or error
                return f"{event.step_key}: {cause.message.strip()}"[:_MOST_OF_AN_ERROR]
        said = [event.message for event in self._events(run, dg.DagsterEventType.RUN_FAILURE) if event.message]
        return said[-1][:_MOST_OF_AN_ERROR] if said else ""

    def _events(self, run: str, kind: dg.DagsterEventType) -> Iterator[dg.DagsterEvent]:
        for record in self._instance.get_records_for_run(run, of_type=kind).records:
            if (event := record.event_log_entry.dagster_event) is not None:
                yield event
