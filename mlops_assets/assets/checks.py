"""Checks of the monitors: what each asks for, and what was found. They warn and block nothing."""

from collections.abc import Mapping

import dagster as dg


def check_specs(key: dg.AssetKey, asked: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
    """The checks of one asset, by name, with what each asks for in words."""
    return [dg.AssetCheckSpec(name, asset=key, description=words) for name, words in asked.items()]


def found(
    name: str,
    passed: bool,
    what: str,
    *,
    is_grave: bool = False,
    metadata: Mapping[str, int | str] | None = None,
) -> dg.AssetCheckResult:
    """What a check has found, in words; `is_grave` makes an error of a warning."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if is_grave else dg.AssetCheckSeverity.WARN,
        description=what,
        metadata=metadata,
    )
