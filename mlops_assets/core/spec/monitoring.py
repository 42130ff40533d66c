"""How a served model is watched. What is done about a verdict does not belong here."""

from typing import Literal, Self
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from mlops_assets.core.spec.declaration import Declaration, did_you_mean, mistake
from mlops_assets.core.spec.values import AwareDatetime, Share


class ConfirmSpec(Declaration):
    """How often a performance alarm must come back before the model is called unhealthy: the newest window and k of the last n."""

    alarms: int = Field(2, ge=1)
    of: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.alarms > self.of:
            raise ValueError(f"{self.alarms} alarms of the last {self.of} windows can never come: lower 'alarms'")
        return self


class MonitoringSpec(Declaration):
    """How live traffic is watched: in windows of event time, each of which gets a verdict on its data and on the model."""

    window: Literal["hour", "day", "week"] = Field("day", description="a week begins on Monday")
    timezone: str = Field("UTC", description="where days and weeks begin at midnight; hours are always UTC's")
    until: AwareDatetime | None = Field(
        None, description="end of a finished history; traffic goes on for ever if left out"
    )
    min_rows: int = Field(50, ge=10, description="rows below which a window's verdict is 'insufficient data'")
    metric: str | None = Field(
        None, description="the loss that decides, a mean over rows; brier, or mae for a regression, if left out"
    )
    floor: float = Field(0.10, ge=0, lt=10, description="relative rise of the loss below which nothing has decayed")
    confirm: ConfirmSpec = ConfirmSpec()
    min_coverage: Share = Field(
        0.5, description="share of the matured predictions that must have labels, else the label feed is reported"
    )

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            raise ValueError(
                f"{timezone!r} is no time zone{did_you_mean(timezone, available_timezones())}; write one such as Europe/Berlin"
            )
        return timezone

    @model_validator(mode="after")
    def _hours_are_utc(self) -> Self:
        if self.window == "hour" and self.timezone != "UTC":
            raise mistake(("timezone",), "hours are those of UTC: leave 'timezone' out, or watch days", self.timezone)
        return self
