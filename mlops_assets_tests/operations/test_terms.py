"""The terms of a way back are those of the whole declaration, or are left to whoever reads that."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.core.rollout import BreakerLimits
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.terms import Terms, read_terms
from mlops_assets_tests.core.examples import declaration
from mlops_assets_tests.operations.test_models import write


def test_the_shipped_models_are_read_alike() -> None:
    for name, spec in declared_models().items():
        terms = read_terms(name)
        assert terms == replace(Terms.of(spec), attempts=1)
        assert terms.features


def test_the_limits_of_a_declared_breaker_are_read(tmp_path: Path) -> None:
    write(tmp_path / "defs.yaml", declaration(release={"breaker": {"failed": 0.2, "open_for": "2min"}}))
    terms = read_terms("delay", tmp_path)
    assert terms is not None
    assert terms.limits == BreakerLimits(failed=0.2, open_s=120.0)
    assert terms == replace(Terms.of(declared_models(tmp_path)["delay"]), attempts=1)


@pytest.mark.parametrize(
    "documents",
    [
        (),
        (declaration(name="other"),),
        (declaration(), declaration()),
        (declaration(name="{{ env('NAME', 'delay') }}"), declaration()),
        (declaration(release={"breaker": {"failed": "{{ env.FAILED }}"}}),),
        (declaration(release={"breaker": {"failed": 7}}),),
        (declaration(features=[{"name": "{{ env.NAME }}", "type": "number"}]),),
        (declaration(features=[{"name": "temp"}]),),
        (None,),
    ],
)
def test_what_only_the_whole_declaration_tells_is_left_to_it(tmp_path: Path, documents: tuple[Any, ...]) -> None:
    write(tmp_path / "defs.yaml", *documents)
    assert read_terms("delay", tmp_path) is None


def test_a_file_that_is_no_yaml_is_left_to_who_says_so(tmp_path: Path) -> None:
    (tmp_path / "defs.yaml").write_text("a: [")
    assert read_terms("delay", tmp_path) is None
