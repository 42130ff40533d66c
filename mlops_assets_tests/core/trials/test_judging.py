"""Which tests a strategy asks for, and what follows from what was seen."""

from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from mlops_assets.core.sequential import ArmSums, Batch, Differences, Errors, Values
from mlops_assets.core.trials.facts import TrialBegan, TrialLooked, TrialStepped
from mlops_assets.core.trials.judging import Judged, Mode, Protocol, Seen, judge_trial, next_share, protocol_of
from mlops_assets_tests.core.examples import make_spec, numbers_spec

BOTH = {"strategy": "shadow-then-canary"}
CONVERSION = {"name": "conversion", "matters": 0.05, "usual": 0.2}


def protocol(loss: float | None = 0.2, slow_ms: float | None = 4.0, **release: Any) -> Protocol:
    return protocol_of(make_spec(release={**BOTH, **release}), loss, slow_ms)


def names(it: Protocol, mode: Mode) -> list[str]:
    return [one.name for one in it.stage(mode).tests]


def at(
    mode: Mode = "shadow",
    share: float = 1.0,
    answered: int = 1000,
    waited_s: float = 0.0,
    tripped: str | None = None,
    said: dict[str, Any] | None = None,
    it: Protocol | None = None,
    incomparable: str | None = None,
    **evidence: Batch,
) -> Judged:
    seen = Seen({name: (batch,) for name, batch in evidence.items()}, answered, waited_s, tripped, incomparable)
    return judge_trial(it or protocol(), mode, share, seen, said or {})


GOOD = Errors(1000, 30, 60)
BAD = Errors(1000, 80, 30)
EVEN_LOSS = Differences(1000, -5.0, 2.0, 1.0)
GOOD_CANARY = Errors(4000, 200, 260, 0.5)


def test_each_strategy_has_its_stages_and_tests():
    it = protocol(metrics=[CONVERSION])
    assert [one.mode for one in it.stages] == ["shadow", "canary", "bake"]
    assert names(it, "shadow") == ["quality", "loss", "errors", "latency"]
    assert names(it, "canary") == ["quality", "conversion", "errors", "latency"]
    assert [one.mode for one in protocol(strategy="shadow").stages] == ["shadow", "bake"]
    assert [one.mode for one in protocol(strategy="canary").stages] == ["canary", "bake"]
    assert names(protocol(loss=None, slow_ms=None), "shadow") == ["quality", "errors"]
    assert "latency" not in names(protocol(slow_ratio=None), "canary")


def test_alpha_is_shared_out_and_beta_is_not():
    it = protocol()
    tests = [one.test for stage in it.stages for one in stage.tests]
    assert sum(one.limits.alpha for one in tests) == pytest.approx(0.05)
    assert {one.limits.beta for one in tests} == {0.05}


def test_a_regression_has_a_quality_in_a_canary_only_where_a_loss_is_known():
    spec = numbers_spec("x", release=BOTH)
    assert protocol_of(spec, 10.0, None).wrong_above == 20.0
    assert names(protocol_of(spec, 10.0, None), "canary") == ["quality", "errors"]
    assert names(protocol_of(spec, None, None), "canary") == ["errors"]


def test_a_protocol_goes_through_json_as_do_the_facts():
    began = TrialBegan(7, 3, 2, "run:1", protocol(metrics=[CONVERSION]))
    seen = Seen({"quality": (GOOD,), "loss": (EVEN_LOSS,)}, 12, 3.5)
    judged = judge_trial(began.protocol, "shadow", 1.0, seen, {})
    looked = TrialLooked("shadow", 1.0, seen, judged.looks, judged.step, judged.reason)
    for fact in (began, looked, TrialStepped("superseded", 8, "another")):
        assert msgspec.json.decode(msgspec.json.encode(fact), type=type(fact)) == fact
    again = judge_trial(began.protocol, looked.stage, looked.share, looked.seen, {})
    assert (again.looks, again.step, again.reason) == (looked.looks, looked.step, looked.reason)


def test_a_shadow_that_is_no_worse_goes_on_and_one_that_is_worse_goes():
    assert at(quality=GOOD, loss=EVEN_LOSS).step == "canary"
    assert at(quality=GOOD, loss=EVEN_LOSS, it=protocol(strategy="shadow")).step == "promote"
    assert at(quality=BAD, loss=EVEN_LOSS).step == "dismiss"
    assert at(quality=GOOD).step == "keep looking", "the loss has not spoken"
    assert at(quality=GOOD, loss=EVEN_LOSS, errors=Errors(1000, 90, 0)).step == "dismiss"
    assert at(quality=GOOD, loss=EVEN_LOSS, latency=Errors(1000, 90, 0)).step == "dismiss"
    assert at(quality=GOOD, loss=EVEN_LOSS, answered=10).step == "keep looking"


def test_what_was_said_stays_said_though_totals_change():
    judged = at(quality=GOOD, loss=EVEN_LOSS, said={"quality": "worse"})
    assert (judged.step, judged.verdicts["quality"]) == ("dismiss", "worse")


def test_too_long_or_too_many_is_inconclusive():
    assert at(waited_s=28 * 86_400.0).step == "inconclusive"
    it = protocol(shadow={"min_samples": 10, "max_samples": 1000})
    judged = at(quality=Errors(1000, 40, 38), loss=EVEN_LOSS, it=it)
    assert (judged.step, judged.verdicts["quality"]) == ("inconclusive", "inconclusive")


def test_a_canary_grows_step_by_step_and_never_against_the_evidence():
    def canary(share: float, answered: int = 100, **evidence: Batch) -> str:
        return at("canary", share, answered, **evidence).step

    assert canary(0.05, quality=Errors(500, 3, 60, 0.05)) == "widen"
    assert canary(0.05, answered=99, quality=Errors(500, 3, 60, 0.05)) == "keep looking"
    assert canary(0.05, quality=Errors(500, 11, 60, 0.05)) == "keep looking", "it leans against"
    assert canary(0.05, quality=Errors(500, 30, 60, 0.05)) == "dismiss"
    assert canary(0.25, quality=GOOD_CANARY) == "widen", "each share is served"
    assert canary(0.5, quality=GOOD_CANARY) == "promote"
    assert at("canary", 0.05, tripped="its breaker opened 3 times").step == "dismiss"
    assert [next_share(protocol(), "canary", one) for one in (0.05, 0.25)] == [0.25, 0.5]
    with pytest.raises(ValueError, match="largest"):
        next_share(protocol(), "canary", 0.5)


def test_evidence_of_several_shares_is_judged_as_one():
    it = protocol()
    parts = (Errors(900, 14, 60, 0.05), Errors(4000, 200, 700, 0.25))
    judged = judge_trial(it, "canary", 0.25, Seen({"quality": parts}, 200), {})
    assert judged.looks["quality"].samples == 4900
    assert judged.verdicts["quality"] == "not worse", "the first share alone would have said the contrary"
    assert judge_trial(it, "canary", 0.05, Seen({"quality": parts[:1]}, 200), {}).looks["quality"].against > 3


def test_a_business_metric_must_speak_for_it_too():
    it = protocol(metrics=[CONVERSION], strategy="canary", canary={"shares": [0.5], "min_samples": 10})
    random = np.random.default_rng(1)

    def sums(rate: float) -> ArmSums:
        return ArmSums.of((random.random(4000) < rate).astype(float), 0.0, 1.0)

    assert at("canary", 0.5, it=it, quality=GOOD_CANARY).step == "keep looking"
    assert at("canary", 0.5, it=it, quality=GOOD_CANARY, conversion=Values(sums(0.2), sums(0.2), 0.5)).step == "promote"
    assert (
        at("canary", 0.5, it=it, quality=GOOD_CANARY, conversion=Values(sums(0.05), sums(0.2), 0.5)).step == "dismiss"
    )


def test_after_the_promotion_an_alarm_goes_on_until_the_time_is_over():
    assert at("bake", quality=GOOD).step == "keep looking"
    assert at("bake", quality=BAD).step == "roll back"
    assert at("bake", quality=GOOD, waited_s=7 * 86_400.0).step == "settle"


def test_a_bake_that_cannot_be_compared_any_more_ends_with_its_time_and_never_before():
    week, few = 7 * 86_400.0, Errors(199, 0, 0)
    early = at("bake", quality=few, incomparable="it is lost")
    told = "quality cannot be compared with the former champion any more, after 199 samples: it is lost"
    assert (early.step, early.reason) == ("keep looking", told)
    late = at("bake", quality=few, waited_s=week, incomparable="it is lost")
    assert (late.step, late.reason) == ("not comparable", f"{told}; the champion stays")
    assert at("bake", quality=BAD, incomparable="it is lost").step == "roll back", "what was found before counts"


def test_a_bake_with_too_few_samples_goes_on_though_its_time_is_over():
    """One without any evidence ended as settled."""
    nothing = at("bake", waited_s=8 * 86_400.0)
    assert (nothing.step, nothing.reason) == (
        "keep looking", "too few samples: 0 of 200; the former champion stays until then",
    )  # fmt: skip
    few = Errors(199, 3, 4)
    assert "199 of 200" in at("bake", quality=few, waited_s=8 * 86_400.0).reason
    assert at("bake", quality=few + Errors(1, 0, 0), waited_s=8 * 86_400.0).step == "settle"
    assert at("bake", quality=few, waited_s=86_400.0).reason == "undecided after 199 samples"


@pytest.mark.parametrize(
    ("release", "why"),
    [
        ({"strategy": "shadow", "metrics": [CONVERSION]}, "need a canary"),
        ({**BOTH, "metrics": [CONVERSION, {**CONVERSION, "name": "late"}]}, r"metrics\.1\.name\n.*'late' is the label"),
        ({**BOTH, "metrics": [CONVERSION, CONVERSION]}, "taken already"),
        ({**BOTH, "metrics": [{**CONVERSION, "name": "errors"}]}, "taken already"),
        ({**BOTH, "metrics": [{**CONVERSION, "matters": 2}]}, "must be less"),
        ({**BOTH, "metrics": [{**CONVERSION, "usual": 2}]}, "does not lie"),
        ({"canary": {"shares": [0.5, 0.25]}}, "rise"),
        ({"canary": {"shares": [0.5, 1.0]}}, "rise"),
        ({"shadow": {"min_samples": 10, "max_samples": 10}}, "cannot decide"),
    ],
)
def test_what_cannot_be_is_said(release: dict[str, Any], why: str):
    with pytest.raises(ValidationError, match=why):
        make_spec(release=release)
