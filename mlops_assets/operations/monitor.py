"""Looking at windows of live traffic: what their data and their answers say, written down as one verdict each.

How windows come about is told in `live_traffic.py`; the tests and the verdicts are those of `core/monitoring`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from mlops_assets.core.evaluation import Judged, point_metrics
from mlops_assets.core.monitoring.drift import DriftReport
from mlops_assets.core.monitoring.estimation import (
    MIN_REFIT_ROWS,
    CalibrationMap,
    Estimate,
    compared_metric,
    estimate_alarm,
    estimate_loss,
    estimate_performance,
    refit_calibration,
    with_cluster_error,
)
from mlops_assets.core.monitoring.health import (
    Cohort,
    DataHealth,
    Evidence,
    Former,
    ModelHealth,
    ScoreShift,
    has_decayed,
    judge_data,
    judge_model,
)
from mlops_assets.core.monitoring.performance import PerformanceSums, assess_performance, sums_of
from mlops_assets.core.monitoring.profile import WindowProfile, profile_frame
from mlops_assets.core.monitoring.rivals import compare_paired
from mlops_assets.core.monitoring.volume import usual_rows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.answers import Answers, Labelled, service_record
from mlops_assets.operations.readings import DATA_HEALTH, MODEL_HEALTH, Readings
from mlops_assets.operations.reference import Reference, clusters_of, score_frame
from mlops_assets.operations.rivals import as_scored, ask_again
from mlops_assets.operations.window_data import WindowData


@dataclass(frozen=True)
class Look:
    """A window's verdict on its data, with the profiles that pictures are made of; None where there is no reference."""

    health: DataHealth
    profile: WindowProfile | None
    reference: Reference | None


class Monitor(Readings):
    """Assesses windows of one model, one after the other in the order of time."""

    def data_health(self, window: str) -> Look:
        """Test a window's data against the reference of the model that answered most of it, and write the verdict down."""
        data = WindowData(self.spec, self.stores, window)
        answered = data.answered()
        reference = self.reference(answered.bundle)
        profile, report = None, None
        unseen: dict[str, tuple[str, ...]] = {}
        impossible: dict[str, float] = {}
        if reference is not None and answered.bundle is not None:
            profile = self.profile(window, answered.bundle, reference)
            report = reference.features.assess(self.recent_profiles(window, answered.bundle, reference, profile))
            unseen = data.unseen(reference.profile, profile)
            impossible = data.impossible(reference.profile, profile)
        champion = reference or self.current_reference()
        begin, end = self.windows.bounds(window)
        expected = None if champion is None else usual_rows(champion.profile.blocks, self.windows.size, begin)
        verdict = judge_data(
            self.spec,
            answered.rows,
            expected,
            report,
            requests=answered.requests,
            impossible=impossible,
            is_over=end <= datetime.now(UTC),
        )
        new = (f"{name} has values that no reference row has: {', '.join(values)}" for name, values in unseen.items())
        health = DataHealth(
            model=self.spec.name,
            window=window,
            begin=begin,
            end=end,
            version=answered.version,
            bundle=answered.bundle,
            rows=answered.rows,
            verdict=verdict.verdict,
            reasons=(*verdict.reasons, *new),
            culprits=verdict.culprits,
            broken=verdict.broken,
            unseen=unseen,
            confidence="" if report is None else report.confidence,
            drift=report,
            drifted=verdict.drifted,
        )
        self.stores.lake.write_document(self.spec.name, f"{DATA_HEALTH}/{window}", health)
        return Look(health, profile, reference)

    def model_health(self, window: str) -> ModelHealth:
        """Hold a window's answers against their labels, or against what can be said without them, and write the verdict down."""
        spec, answers = self.spec, self.answers(window).of_one_version()
        reference = self.reference(answers.bundle)
        labelled = self.labelled(window)
        cohort = self._cohort(answers, labelled)
        earlier = self.earlier(window, answers.bundle)
        sums, report, scores, former = None, None, None, None
        estimated: dict[str, Estimate] = {}
        how, alarm = "", None
        if reference is not None and len(answers.rows):
            calibration, how = self._calibration(window, answers.bundle, reference)
            estimated = self._estimate(answers, reference, calibration)
            alarm = estimate_alarm(spec, reference.held_out.metrics, estimated)
            scores = self._score_shift(answers, reference)
            if cohort.is_covered(spec):
                sums = self._sums(answers, labelled, reference)
                recent = [one.sums for one in earlier if one.sums is not None]
                report = assess_performance(
                    reference.held_out.performance,
                    [*recent, sums],
                    loss=spec.headline_loss,
                    floor=spec.monitoring.floor,
                    min_rows=spec.monitoring.min_rows,
                )
                former = self._former(answers, labelled, reference)
        service, metric = service_record(answers), compared_metric(spec)
        before = earlier[-(spec.monitoring.confirm.of - 1) :] if spec.monitoring.confirm.of > 1 else ()
        begin, end = self.windows.bounds(window)
        evidence = Evidence(
            cohort,
            service,
            report,
            sum(one.decayed for one in before),
            reference is not None and metric in estimated and metric in reference.held_out.metrics,
            alarm,
            former,
            has_reference=reference is not None,
            is_over=end <= datetime.now(UTC),
        )
        verdict, reasons = judge_model(spec, evidence)
        judged = Judged(labelled.truth, labelled.output) if len(labelled.truth) else None
        health = ModelHealth(
            model=spec.name,
            window=window,
            begin=begin,
            end=end,
            version=answers.version,
            bundle=answers.bundle,
            verdict=verdict,
            reasons=reasons,
            cohort=cohort,
            service=service,
            realised={} if judged is None else _metrics(spec, judged),
            estimated=estimated,
            estimated_by=how,
            reference={} if reference is None else reference.held_out.metrics,
            performance=report,
            decayed=has_decayed(spec, report),
            scores=scores,
            former=former,
            sums=sums,
        )
        self.stores.lake.write_document(spec.name, f"{MODEL_HEALTH}/{window}", health)
        return health

    def _cohort(self, answers: Answers, labelled: "Labelled") -> Cohort:
        now = self.newest_event()
        matured = 0
        if now is not None:
            matured = int((answers.rows["event_time"] + self.spec.label.delay <= now).sum())
        return Cohort(len(answers.rows), matured, len(labelled.truth))

    def _calibration(self, window: str, bundle: str | None, reference: Reference) -> tuple[CalibrationMap | None, str]:
        """The calibration made anew on labels that were known when the window began; where they are too few, the bundle's own."""
        if self.spec.task == "regression":
            return None, "a model of the loss, fitted on held-out rows" if reference.loss_model else ""
        truth, output = self.known_before(window, bundle)
        refitted = refit_calibration(truth, output) if len(truth) >= MIN_REFIT_ROWS else None
        if refitted is not None:
            return refitted, f"probabilities calibrated on the {refitted.rows:,} newest labelled rows"
        assert reference.held_out.calibration is not None
        return reference.held_out.calibration, "probabilities calibrated on the held-out rows of the training"

    def _estimate(
        self, answers: Answers, reference: Reference, calibration: CalibrationMap | None
    ) -> dict[str, Estimate]:
        expected = reference.expected(answers.features, answers.output, calibration)
        if expected is None:
            return {}
        if self.spec.task == "regression":
            estimates = {"mae": estimate_loss(expected, reference.held_out.dispersion)}
        else:
            estimates = estimate_performance(answers.output, expected, self.spec.evaluation.decision_threshold)
        baseline = reference.held_out.performance.baselines()[self.spec.headline_loss]
        return with_cluster_error(estimates, baseline.overdispersion)

    def _sums(self, answers: Answers, labelled: "Labelled", reference: Reference) -> PerformanceSums:
        features = answers.features[labelled.at]
        expected = reference.expected(features, labelled.output, reference.held_out.calibration)
        clusters = clusters_of(self.spec, answers.rows["event_time"][labelled.at]).to_numpy()
        return sums_of(self.spec.task, labelled.truth, labelled.output, expected, clusters)

    def _score_shift(self, answers: Answers, reference: Reference) -> ScoreShift:
        scores = score_frame(answers.output)
        profile = profile_frame(reference.score_profile.binning, scores, answers.rows["event_time"])
        report: DriftReport = reference.scores.assess([profile])
        most = max(report.features, key=lambda one: (one.alarm, one.psi))
        return ScoreShift(
            mean=float(scores[most.feature].mean()),
            reference_mean=reference.score_profile.mean_of(most.feature),
            psi=most.psi,
            alarm=most.alarm,
            reason=most.reason,
        )

    def _former(self, answers: Answers, labelled: Labelled, reference: Reference) -> Former | None:
        """The last champion before the one that answered, asked for the labelled rows again; None where there is none to ask."""
        plans = self.stores.releases.history(self.spec.name)
        released = [plan.release for plan in plans if plan.champion.version == answers.version]
        withdrawn = set(plans[-1].withdrawn) if plans else set()
        candidates = [
            plan.champion
            for plan in plans
            if released and plan.release < min(released) and plan.champion.version not in withdrawn
        ]
        if not candidates:
            return None
        model = self.spec.name
        features = as_scored(self.stores, model, answers.rows[labelled.at], answers.features[labelled.at])
        output = ask_again(self.stores, model, candidates[-1].bundle, features)
        if output is None or output.shape != labelled.output.shape:
            return None
        baseline = reference.held_out.performance.baselines()[self.spec.headline_loss]
        found = compare_paired(
            self.spec, labelled.truth, output, labelled.output, overdispersion=baseline.overdispersion
        )
        return Former(candidates[-1].version, found.comparison, found.is_better)


def _metrics(spec: ModelSpec, judged: Judged) -> dict[str, float]:
    return {name: value for name, value in point_metrics(spec, judged).items() if np.isfinite(value)}
