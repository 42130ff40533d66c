"""What lives as long as a serving worker: settings, snapshot, loader, log and the threads for slow work."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlops_assets.core.records import Record
from mlops_assets.serving.batcher import Batchers
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.draining import Draining
from mlops_assets.serving.explain import Explainer
from mlops_assets.serving.explain_process import ExplainProcess
from mlops_assets.serving.loader import ReleaseLoader, ReleaseSource
from mlops_assets.serving.metrics import count_log_failure, forget_dead_workers, show_load
from mlops_assets.serving.scoring import Means
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.serving.shadow import ShadowQueue
from mlops_assets.serving.shedding import Shedder
from mlops_assets.serving.state import ServingState
from mlops_assets.serving.tallies import flush_tallies
from mlops_assets.stores.bundles import BundleStore
from mlops_assets.stores.prediction_log import LogError, LogWriter, PredictionLog
from mlops_assets.stores.releases import ReleaseStore
from mlops_assets.stores.workers import WorkerStore

logger = logging.getLogger("bentoml.mlops_assets.runtime")

HOUSEKEEPING_SECONDS = 1.0
_YOUNG_OBJECTS = 20_000
_SWITCH_SECONDS = 0.0005


class ServingRuntime:
    """One worker's state and its background work, from start-up to shutdown.

    Parameters
    ----------
    carried
        The folder of plans and bundles inside a Bento; it need not exist.
    """

    def __init__(self, settings: ServingSettings, carried: Path):
        home = settings.home
        self.settings = settings
        self.state = ServingState()
        self.pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scoring")
        cache = AnswerCache(settings.cache_rows) if settings.cache_rows else None
        self.means = Means(Batchers(self.pool), cache)
        self.shedder = Shedder(settings.max_wait_ms / 1e3, settings.max_in_flight, self._queue_s)
        source = ReleaseSource(ReleaseStore(home.releases), BundleStore(home.bundles), carried)
        self._loader = ReleaseLoader(source, WorkerStore(home.workers), self.state, settings)
        self.shadows = ShadowQueue(self.append)
        self._explaining = ExplainProcess()
        self.explainer = Explainer(source.bundle, PredictionLog(home.prediction_log), self._explaining)
        self._log: LogWriter | None = None
        self._log_waiting = 0
        self._gc_threshold = gc.get_threshold()
        self._switch_interval_s = sys.getswitchinterval()
        self._housekeeping: asyncio.Task[None] | None = None
        self._draining: Draining | None = None

    @property
    def worker(self) -> str:
        return self._loader.worker

    async def start(self) -> None:
        """Settle what dead workers left, open the log, load what is released. Raises when the home cannot be written to."""
        await asyncio.to_thread(self._open)
        self._housekeeping = asyncio.create_task(self._keep_house())
        self.shadows.start()
        self.shedder.start()
        self._draining = Draining.of_this_process(self.settings)
        if self._draining is not None:
            await self._draining.start()
        # What is loaded by now stays: the collector need not walk it again while requests wait.
        gc.collect()
        gc.freeze()
        # A request makes some hundred objects and no cycles: to look for cycles every few requests finds nothing.
        self._gc_threshold = gc.get_threshold()
        gc.set_threshold(_YOUNG_OBJECTS, *self._gc_threshold[1:])
        # A thread that loads a version holds the interpreter for so long each time that the event loop has made a system call.
        self._switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)

    async def stop(self) -> None:
        if self._draining is not None:
            await self._draining.stop()
        self.shedder.stop()
        await self.shadows.stop()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeping
        await asyncio.to_thread(self._close)
        flush_tallies()
        gc.unfreeze()
        gc.set_threshold(*self._gc_threshold)
        sys.setswitchinterval(self._switch_interval_s)

    @property
    def waits_for_disk(self) -> bool:
        """Whether to write to the log takes so long that others should be answered meanwhile."""
        assert self._log is not None
        return self._log.durable

    async def append(self, records: Sequence[Record]) -> None:
        """Write records to the log; they are safe when this returns. Raises `LogError` when they cannot be written."""
        if not self.waits_for_disk:
            self.append_at_once(records)
            return
        self._log_waiting += len(records)
        try:
            await asyncio.get_running_loop().run_in_executor(self.pool, self.append_at_once, records)
        finally:
            self._log_waiting -= len(records)

    def append_at_once(self, records: Sequence[Record]) -> None:
        """`append` in this thread."""
        assert self._log is not None
        try:
            self._log.append(records)
        except LogError:
            count_log_failure()
            raise

    def _queue_s(self, model: str) -> float:
        """Seconds until the scorer of a model would begin with one more request."""
        if not self.means.batchers.is_used:
            return 0.0
        live = self.state.snapshot.models.get(model)
        return self.means.batchers.wait_s(live) if live is not None and live.is_slow else 0.0

    def _open(self) -> None:
        home = self.settings.home
        forget_dead_workers()
        PredictionLog(home.prediction_log).recover()
        self._log = LogWriter(
            home.prediction_log,
            self.worker,
            durability=self.settings.log_durability,
            max_segment_age_s=self.settings.log_segment_seconds,
        )
        self._loader.start()

    def _close(self) -> None:
        self._loader.stop()
        self.pool.shutdown()
        try:
            # First: what has been answered is sealed, whatever the rest takes.
            if self._log is not None:
                self._log.close()
        finally:
            self._explaining.close()
            self.explainer.close()

    async def _keep_house(self) -> None:
        assert self._log is not None
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            show_load(self.shedder.longest_wait_s(), self.shedder.in_flight, self._log_waiting, self.shadows.rows)
            flush_tallies()
            if self.settings.server_pid not in (None, os.getppid()):
                logger.error("The server that started this worker is gone: ending too")
                signal.raise_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._log.rotate_if_due)
            except LogError:
                count_log_failure()
                logger.exception("A log segment could not be sealed; trying again")
