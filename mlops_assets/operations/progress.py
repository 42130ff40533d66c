"""Reading the event log that the Dagster command line prints, to show a person how a run gets on."""

import re
from dataclasses import dataclass

_EVENT = re.compile(
    r" - (?P<event>ASSET_MATERIALIZATION|ASSET_CHECK_EVALUATION|STEP_FAILURE|RUN_FAILURE) - (?P<text>.*)$"
)
_CHECK = re.compile(
    r"Asset check '(?P<check>[^']+)' on '(?P<asset>[^']+)' (?P<verdict>passed|did not pass)\.(?: Description: '(?P<why>.*?)'?)?$"
)
_ASSET = re.compile(r"Materialized value (?P<asset>.+)\.$")


@dataclass(frozen=True)
class Progress:
    """One thing that happened in a run: an asset was materialised, a check was made, or a step failed."""

    kind: str
    subject: str
    passed: bool
    detail: str


def read_progress(line: str) -> Progress | None:
    """What a line of Dagster's event log says, None for the lines that nobody needs to see."""
    event = _EVENT.search(line)
    if event is None:
        return None
    text = event["text"]
    if event["event"] == "ASSET_MATERIALIZATION" and (asset := _ASSET.match(text)):
        return Progress("asset", asset["asset"].replace(" ", "/"), True, "")
    if event["event"] == "ASSET_CHECK_EVALUATION" and (check := _CHECK.match(text)):
        return Progress("check", check["check"], check["verdict"] == "passed", check["why"] or "")
    if event["event"].endswith("FAILURE"):
        return Progress("failure", event["event"].lower(), False, text)
    return None
