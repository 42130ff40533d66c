import math

import pytest

from mlops_assets.serving.settings import ServingSettings


def test_defaults_hold_where_nothing_is_set():
    settings = ServingSettings.from_environment({})
    assert (settings.log_durability, settings.max_rows, settings.server_pid) == ("os", 10_000, None)
    assert settings.max_wait_ms == math.inf


def test_variables_are_read():
    settings = ServingSettings.from_environment(
        {
            "MLOPS_LOG_DURABILITY": "disk",
            "MLOPS_LOG_SEGMENT_SECONDS": "2",
            "MLOPS_MAX_ROWS": "5",
            "MLOPS_MAX_WAIT_MS": "12.5",
            "MLOPS_SERVER_PID": "71",
        }
    )
    assert (settings.server_pid, settings.max_wait_ms) == (71, 12.5)
    assert (settings.log_durability, settings.log_segment_seconds, settings.max_rows) == ("disk", 2.0, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("MLOPS_LOG_DURABILITY", "never"), ("MLOPS_MAX_ROWS", "0"), ("MLOPS_MAX_BODY_BYTES", "1 MB")],
)
def test_a_wrong_value_is_refused_naming_the_variable(name: str, value: str):
    with pytest.raises(ValueError, match=name):
        ServingSettings.from_environment({name: value})
