"""Which table is scored in one go, and where the answers go."""

from typing import Self

from pydantic import Field, model_validator

from mlops_assets.core.spec.declaration import Declaration
from mlops_assets.core.spec.values import Share

INPUT_ENDINGS = (".parquet", ".csv", ".csv.gz", ".csv.zip")
OUTPUT_ENDINGS = (".parquet", ".csv")
WINDOW = "{window}"


class BatchSpec(Declaration):
    """A table to score, and the table of answers. Both are paths or fsspec URLs of Parquet or CSV files.

    With `by_window` there is a pair of tables for each monitoring window, its key in the place of `{window}`.
    """

    input: str = Field(description=f"rows to score: a name that ends in {', '.join(INPUT_ENDINGS)}")
    output: str = Field(description=f"their answers: a name that ends in {' or '.join(OUTPUT_ENDINGS)}")
    by_window: bool = Field(False, description=f"one pair of tables a monitoring window; {WINDOW} stands for its key")
    max_quarantined_share: Share | None = Field(
        None, description="share of rows without an answer above which the check fails; left out: that of `quality`"
    )

    def paths(self, window: str | None = None) -> tuple[str, str]:
        """Input and output, those of one window where there are windows."""
        if window is None:
            return self.input, self.output
        return self.input.replace(WINDOW, window), self.output.replace(WINDOW, window)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for name, path, endings in (("input", self.input, INPUT_ENDINGS), ("output", self.output, OUTPUT_ENDINGS)):
            if not path.lower().endswith(endings):
                raise ValueError(f"{name} {path!r}: unknown kind of table; the name must end in {', '.join(endings)}")
            if (WINDOW in path) != self.by_window:
                wanted = (
                    f"needs {WINDOW} in it, because of by_window" if self.by_window else "has no windows: by_window"
                )
                raise ValueError(f"{name} {path!r} {wanted}")
        if self.input == self.output:
            raise ValueError(f"input and output are the same table {self.input!r}")
        return self
