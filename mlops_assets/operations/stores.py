"""All stores of one deployment, opened from one folder."""

from dataclasses import dataclass
from functools import cached_property

from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.home import Home
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
    def lake(self) -> Lake:
        return Lake(str(self.home.lake))

    @cached_property
    def registry(self) -> Registry:
        return Registry.local(self.home.mlflow)

    @cached_property
    def bundles(self) -> BundleStore:
        return BundleStore(self.home.bundles)

    @cached_property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.home.releases)

    @cached_property
    def workers(self) -> WorkerStore:
        return WorkerStore(self.home.workers)

    @cached_property
    def log(self) -> PredictionLog:
        return PredictionLog(self.home.prediction_log)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger)

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(self.ledger.database)
