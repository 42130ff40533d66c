"""All stores of one deployment, opened from one folder.

Each is imported when it is first asked for: what has to be done at once must not wait for libraries of those that it does not use.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mlops_assets.stores.home import Home

if TYPE_CHECKING:
    from mlops_assets.stores.bundles import BundleStore
    from mlops_assets.stores.lake import Lake
    from mlops_assets.stores.ledger import Ledger
    from mlops_assets.stores.outbox import Outbox
    from mlops_assets.stores.prediction_log import PredictionLog
    from mlops_assets.stores.registry import Registry
    from mlops_assets.stores.releases import ReleaseStore
    from mlops_assets.stores.workers import WorkerStore


@dataclass(frozen=True)
class Stores:
    """The state that operations read and write; each store is opened when it is first asked for."""

    home: Home

    @cached_property
    def lake(self) -> "Lake":
        from mlops_assets.stores.lake import Lake

        return Lake(str(self.home.lake))

    @cached_property
    def registry(self) -> "Registry":
        from mlops_assets.stores.registry import Registry

        return Registry.local(self.home.mlflow)

    @cached_property
    def bundles(self) -> "BundleStore":
        from mlops_assets.stores.bundles import BundleStore

        return BundleStore(self.home.bundles)

    @cached_property
    def releases(self) -> "ReleaseStore":
        from mlops_assets.stores.releases import ReleaseStore

        return ReleaseStore(self.home.releases)

    @cached_property
    def workers(self) -> "WorkerStore":
        from mlops_assets.stores.workers import WorkerStore

        return WorkerStore(self.home.workers)

    @cached_property
    def log(self) -> "PredictionLog":
        from mlops_assets.stores.prediction_log import PredictionLog

        return PredictionLog(self.home.prediction_log)

    @cached_property
    def ledger(self) -> "Ledger":
        from mlops_assets.stores.ledger import Ledger

        return Ledger(self.home.ledger)

    @cached_property
    def outbox(self) -> "Outbox":
        from mlops_assets.stores.outbox import Outbox

        return Outbox(self.ledger.database)
