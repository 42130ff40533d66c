"""Keeps a worker's snapshot up to date, in a thread of its own: watches the release pointers, loads, swaps, and reports.

A release that does not verify is refused: what was loaded before stays in service, and the error is reported, counted and logged.
How a plan becomes verified models is told in `casting.py`.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mlops_assets.core.rollout import ReleasePlan
from mlops_assets.serving.casting import cast_champion, with_others
from mlops_assets.serving.json_logs import about
from mlops_assets.serving.metrics import Loaded, count_refused, show_release
from mlops_assets.serving.settings import ServingSettings
from mlops_assets.serving.state import LiveModel, ServingState, Snapshot
from mlops_assets.stores.bundles import Bundle, BundleError, BundleStore
from mlops_assets.stores.releases import ReleaseDamaged, ReleaseStore
from mlops_assets.stores.workers import BreakerReport, LoadedRelease, LoadedVersion, WorkerState, WorkerStore

logger = logging.getLogger("bentoml.mlops_assets.loader")

HEARTBEAT_SECONDS = 1.0
_UNREAD = 0  # in place of the number of a release whose plan could not be read: it says nothing of any release


class ReleaseSource:
    """Where plans and bundles come from: the stores, and what the Bento carries.

    Parameters
    ----------
    carried
        Folder with `plans/<model>.json` and `bundles/`, or one that is not there. Of two plans of one model the one with the
        higher release number counts, the store's when they are equal; a bundle is taken from where it is whole.
    """

    def __init__(self, releases: ReleaseStore, bundles: BundleStore, carried: Path):
        self._releases = releases
        self._bundles = (bundles, BundleStore(carried / "bundles"))
        plans = [_carried_plan(file) for file in sorted((carried / "plans").glob("*.json"))]
        self._carried = {plan.model: plan for plan in plans}

    def stamp(self) -> object:
        return self._releases.stamp()

    def models(self) -> tuple[str, ...]:
        return tuple(sorted({*self._releases.models(), *self._carried}))

    def plan(self, model: str) -> ReleasePlan:
        plans = [plan for plan in (self._releases.current(model), self._carried.get(model)) if plan is not None]
        return max(plans, key=lambda plan: plan.release)

    def bundle(self, bundle: str) -> Bundle:
        """Raises `BundleError` with what is wrong in each place where it is, or that it is in none."""
        errors = []
        for store in self._bundles:
            if bundle in store:
                try:
                    return store.get(bundle)
                except BundleError as error:
                    errors.append(str(error))
        raise BundleError("; ".join(errors) or f"bundle {bundle} is neither in the store nor carried by the Bento")


class ReleaseLoader:
    """Watches the release pointers from a background thread and reports what this worker has loaded.

    Parameters
    ----------
    state
        Its snapshot is replaced here, and nowhere else.
    """

    def __init__(self, source: ReleaseSource, workers: WorkerStore, state: ServingState, settings: ServingSettings):
        self.worker = f"{_plain(socket.gethostname())}-{os.getpid()}"
        self._source = source
        self._workers = workers
        self._state = state
        self._settings = settings
        self._started_at = datetime.now(UTC)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="release-loader", daemon=True)
        # Of its own: a worker that takes long to load a version is not dead.
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._reporting = threading.Lock()
        self._seen: object = None
        self._retry_at = 0.0
        self._refused: dict[str, int] = {}

    def start(self) -> None:
        """Load what is released now, report it, and go on watching. Takes as long as the models take to load."""
        self.refresh_if_due()
        self.report()
        self._thread.start()
        self._heart.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._heart.join()
        self._workers.remove(self.worker)

    def refresh_if_due(self) -> bool:
        """Load what changed since the last look, or try again what was refused. Tells whether anything was done."""
        stamp = self._source.stamp()
        retry = self._state.snapshot.lacks_something and time.monotonic() >= self._retry_at
        if stamp == self._seen and not retry:
            return False
        self._refresh()
        # The stamp of before: a pointer that has moved meanwhile is seen at the next look.
        self._seen = stamp
        self._retry_at = time.monotonic() + self._settings.retry_seconds
        return True

    def report(self) -> None:
        """Tell the worker store what is loaded. The heartbeat of this worker."""
        with self._reporting:
            self._workers.report(self._report_of(self._state.snapshot))

    def _report_of(self, snapshot: Snapshot) -> WorkerState:
        loaded = {model: _report(live) for model, live in snapshot.models.items()}
        for model, plan in snapshot.retired.items():
            # Out of service is out of service, whether or not its bundle can be loaded.
            if model not in loaded or loaded[model].release != plan.release:
                loaded[model] = LoadedRelease(
                    plan.release, plan.champion.version, plan.champion.bundle, plan.decided_at
                )
        return WorkerState(
            worker=self.worker,
            pid=os.getpid(),
            host=socket.gethostname(),
            started_at=self._started_at,
            heartbeat_at=datetime.now(UTC),
            models=loaded,
            errors=dict(snapshot.errors),
            refused=self._refused,
        )

    def _watch(self) -> None:
        while not self._stopping.wait(self._settings.poll_seconds):
            try:
                if self.refresh_if_due():
                    # At the next heartbeat it would be late: what a fresh release does wrong is found by what is reported here.
                    self.report()
            except Exception:
                # Out of reach or damaged: what is loaded goes on answering, and the watch goes on.
                logger.exception("The release store could not be read or reported to; trying again")

    def _beat(self) -> None:
        while not self._stopping.wait(HEARTBEAT_SECONDS):
            try:
                self.report()
            except Exception:
                logger.exception("What this worker has loaded could not be reported; trying again")

    def _refresh(self) -> None:
        models, errors = dict(self._state.snapshot.models), {}
        retired: dict[str, ReleasePlan] = {}
        numbers: dict[str, int] = {}
        for model in self._source.models():
            former = models.get(model)
            try:
                plan = self._source.plan(model)
                numbers[model] = plan.release
                if plan.retired is not None:
                    retired[model] = plan
                live = cast_champion(self._source.bundle, plan, former)
                if live is not former:
                    # Callers need not wait until those are loaded who are to stand beside it.
                    models[model] = with_others(None, live, former)
                    self._state.snapshot = self._meanwhile(models, plan)
                live = with_others(self._source.bundle, live, former)
            except Exception as error:
                # Whatever is wrong with a release, the worker must go on answering from the one it has.
                if model in retired:
                    logger.warning("%s is retired, and its bundle cannot be loaded: %s", model, error)
                    continue
                errors[model] = f"{type(error).__name__}: {error}"
                count_refused(model)
                # Tried again every few seconds: said once.
                if self._state.snapshot.errors.get(model) != errors[model]:
                    extra = {"model": model, **about(former)}
                    logger.exception("The release of %s is refused; %s", model, _what_stays(former), extra=extra)
                continue
            if live is not former:
                self._tell(live, former)
            models[model] = live
        # An error is never reported with another's number.
        with self._reporting:
            self._refused = {model: numbers.get(model, _UNREAD) for model in errors}
            self._state.snapshot = Snapshot(models, errors, retired)

    def _meanwhile(self, models: Mapping[str, LiveModel], plan: ReleasePlan) -> Snapshot:
        """The current snapshot with these models, one of which has a new plan."""
        current = self._state.snapshot
        retired = {name: one for name, one in current.retired.items() if name != plan.model}
        if plan.retired is not None:
            retired[plan.model] = plan
        return Snapshot(dict(models), current.errors, retired)

    @staticmethod
    def _tell(live: LiveModel, former: LiveModel | None) -> None:
        """Show what has changed of a model."""
        model, release = live.manifest.model, live.plan.release
        show_release(model, release, live.plan.decided_at, _loaded(live), _loaded(former))
        if former is None or former.plan != live.plan:
            version = live.manifest.version
            logger.info("%s: release %d, version %d is live", model, release, version, extra=about(live))


def _carried_plan(file: Path) -> ReleasePlan:
    try:
        return msgspec.json.decode(file.read_bytes(), type=ReleasePlan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseDamaged(f"{file} is not a release plan ({error}): build the Bento again") from error


def _loaded(live: LiveModel | None) -> set[Loaded]:
    if live is None:
        return set()
    return {(one.manifest.version, one.role) for one in (live, *live.beside.loaded.values())}


def _report(live: LiveModel) -> LoadedRelease:
    others = {place: _report_beside(one) for place, one in live.beside.loaded.items()}
    return LoadedRelease(
        live.plan.release,
        live.manifest.version,
        live.bundle,
        live.loaded_at,
        live.counter.counts(),
        _report_breaker(live),
        **others,
        refused={str(place): why for place, why in live.beside.refused.items()},
    )


def _report_beside(live: LiveModel) -> LoadedVersion:
    return LoadedVersion(live.manifest.version, live.bundle, live.role, live.counter.counts(), _report_breaker(live))


def _report_breaker(live: LiveModel) -> BreakerReport:
    breaker = live.breaker
    return BreakerReport(breaker.state, breaker.trips, breaker.reason)


def _what_stays(former: LiveModel | None) -> str:
    return "nothing else is loaded" if former is None else f"release {former.plan.release} stays in service"


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-") or "host"
