"""A model declared by YAML alone, on a data set that comes with scikit-learn, and a folder of definitions to load it from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster.components.testing import create_defs_folder_sandbox
from sklearn.datasets import load_wine

from mlops_assets.resources import make_resources

WINE_YAML = """\
type: mlops_assets.components.ModelLifecycle
attributes:
  name: wine
  owner: team:tests
  task: multiclass
  source:
    table: {table}
  entity_key: bottle
  event_time: tasted_at
  live_from: 2024-06-01T00:00:00Z
  label:
    column: cultivar
    delay: 1h
  features:
    - {{name: alcohol, type: number, minimum: 5, maximum: 20}}
    - {{name: flavanoids, type: number}}
    - {{name: proline, type: number}}
    - {{name: hue, type: number}}
    - {{name: cellar, type: category}}
  training:
    estimator: sklearn.ensemble.RandomForestClassifier
    parameters: {{n_estimators: 30, max_depth: 6}}
    holdout: 20d
    seed: 7
  gates:
    - {{metric: accuracy, at_least: 0.8}}
    - {{kind: baseline, metric: log_loss, by: 0.2}}
"""


def write_wine_table(path: Path) -> Path:
    """The 178 wines of scikit-learn as events of spring 2024, in random order, with a category and some holes."""
    wine = load_wine(as_frame=True)
    frame = wine.data[["alcohol", "flavanoids", "proline", "hue"]].copy()
    frame["cultivar"] = [f"cultivar {code}" for code in wine.target]
    frame = frame.sample(frac=1, random_state=3, ignore_index=True)
    frame["cellar"] = ["north", "south", "east"] * (len(frame) // 3) + ["north"] * (len(frame) % 3)
    frame.loc[::9, "hue"] = None
    frame["bottle"] = [f"bottle {number}" for number in range(len(frame))]
    frame["tasted_at"] = pd.date_range("2024-03-01", "2024-05-31", len(frame), tz="UTC").astype("datetime64[us, UTC]")
    frame.to_parquet(path)
    return path


@contextmanager
def loaded(yaml: str, home: str = "", folder: str = "wine") -> Iterator[dg.Definitions]:
    """The definitions of a project whose `defs/<folder>/defs.yaml` holds this text, with the resources of a home."""
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.defs_folder_path / folder / "defs.yaml"
        path.parent.mkdir()
        path.write_text(yaml, encoding="utf-8")
        with sandbox.build_all_defs() as definitions:
            yield dg.Definitions.merge(definitions, dg.Definitions(resources=make_resources(home)))
