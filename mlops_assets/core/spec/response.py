"""What is done about a model that is not well, by whose leave, and who is called."""

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator

from mlops_assets.core.spec.declaration import Declaration
from mlops_assets.core.spec.values import Duration, Share

Mode = Literal["auto", "approve", "off"]


class FeedSpec(Declaration):
    """Where some of the features come from, and who is told when they come no more."""

    owner: str = Field(min_length=1, description="e-mail address, or 'team:<name>'")
    notify: tuple[str, ...] = Field((), description="Apprise URLs; those of the response if left out")


class ActionModes(Declaration):
    """Which remedies are applied by themselves, which need a person's leave, and which are never applied."""

    impute: Mode = Field(
        "auto", description="take the values of a broken feature for missing, so that they are imputed"
    )
    retrain: Mode = "auto"
    rollback: Mode = "auto"
    fallback: Mode = Field("approve", description="answer with the declared constant or the base rate")
    freeze: Mode = Field("auto", description="stop all automation when it does not help")


class ServiceLimits(Declaration):
    """What a fresh release may not do; beyond it the former one serves again at once, without waiting for a window."""

    failed: Share = Field(0.05, description="share of the requests that fail")
    latency_ms: float | None = Field(
        None, gt=0, description="milliseconds that 99 of 100 requests must keep; none if left out"
    )
    min_requests: int = Field(50, ge=1, description="requests before anything is concluded")
    watch: Duration = Field(timedelta(hours=1), description="how long after a release, by the wall clock")


class ResponseSpec(Declaration):
    """The policy: what follows from the verdicts on a model's windows. Times and cooldowns go by event time."""

    notify: tuple[str, ...] = Field((), description="Apprise URLs that are told of incidents and of what is done")
    actions: ActionModes = ActionModes()
    on_drift: Literal["observe", "alert", "retrain"] = Field(
        "retrain", description="what critical and confirmed drift of important features is answered with"
    )
    cooldown: Duration = Field(
        timedelta(days=21), description="between two trainings, and in which one rollback is enough"
    )
    min_fresh_labels: int = Field(1000, ge=1, description="labelled rows since the champion was trained")
    min_fresh_share: Share = Field(0.1, description="and how many they must be beside the rows it was trained on")
    schedule: str | None = Field(None, description="cron expression; trains a candidate by the calendar as well")
    feed_patience: Duration = Field(
        timedelta(days=14), description="how long a feed may be broken before a model is trained without it"
    )
    max_refusals: int = Field(3, ge=1, description="candidates refused in a row before a person is asked")
    widen_by: float = Field(1.5, ge=1, description="how much longer a rolling training window grows after a refusal")
    freeze_after: int = Field(3, ge=1, description="critical incidents within 24 hours that stop all automation")
    close_after: int = Field(3, ge=1, description="good windows in a row after which an incident is over")
    attempts: int = Field(3, ge=1, description="how often a remedy that fails is tried")
    service: ServiceLimits = ServiceLimits()

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, schedule: str | None) -> str | None:
        if schedule is not None and len(schedule.split()) != 5:
            raise ValueError(
                f"{schedule!r} is no cron expression: write five fields, such as '0 3 * * 1' for Mondays at 3:00"
            )
        return schedule
