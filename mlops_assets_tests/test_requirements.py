import sys

import pytest

from mlops_assets_tests.requirements import needs


def test_a_program_that_is_there_is_found():
    assert needs(sys.executable) == sys.executable


def test_a_missing_program_skips_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLOPS_NO_SKIP", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        needs("no-such-program")


def test_a_missing_program_fails_where_nothing_may_be_skipped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLOPS_NO_SKIP", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        needs("no-such-program")
