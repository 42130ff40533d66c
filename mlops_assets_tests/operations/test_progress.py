import pytest

from mlops_assets.operations.progress import Progress, read_progress

PREFIX = "2026-01-02 10:45:48 +0000 - dagster - DEBUG - delay_lifecycle - dad2019d-068d - 12852 - delay__evaluation - "
CHECK = PREFIX + "ASSET_CHECK_EVALUATION - Asset check 'brier_at_most' on 'delay/evaluation' "


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            PREFIX + "ASSET_MATERIALIZATION - Materialized value delay raw_data.",
            Progress("asset", "delay/raw_data", True, ""),
        ),
        (CHECK + "passed.", Progress("check", "brier_at_most", True, "")),
        (CHECK + "did not pass.", Progress("check", "brier_at_most", False, "")),
        (
            CHECK + "passed. Description: '0.1, must be at most 0.2. It's fine.'",
            Progress("check", "brier_at_most", True, "0.1, must be at most 0.2. It's fine."),
        ),
        (CHECK + "did not pass. Description: 'why'", Progress("check", "brier_at_most", False, "why")),
        (
            PREFIX + 'STEP_FAILURE - Execution of step "delay__raw_data" failed.',
            Progress("failure", "step_failure", False, 'Execution of step "delay__raw_data" failed.'),
        ),
        (PREFIX + "RUN_FAILURE - It broke.", Progress("failure", "run_failure", False, "It broke.")),
    ],
)
def test_a_line_says_what_happened(line: str, progress: Progress) -> None:
    assert read_progress(line) == progress


@pytest.mark.parametrize("words", ["two lines, of which this is the first", "a sentence."])
def test_a_description_of_several_lines_is_cut_after_the_first(words: str) -> None:
    """Such a check once stayed unseen, or, when its first line ended with a full stop, was shown as failed."""
    assert read_progress(CHECK + f"passed. Description: '{words}") == Progress("check", "brier_at_most", True, words)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Traceback (most recent call last):",
        PREFIX + "STEP_START - Started execution of step.",
        PREFIX + "ASSET_MATERIALIZATION - Something else",
        "a warning - about ASSET_MATERIALIZATION and RUN_FAILURE",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    assert read_progress(line) is None
