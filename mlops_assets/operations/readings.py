"""Everything that is known about a model's windows: their answers and labels, the references, and the verdicts made so far.

What it has read it keeps as far as a batch of windows needs it again; what to think of it is the business of `monitor.py`.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from mlops_assets.core.live_traffic import LiveWindow
from mlops_assets.core.metrics import Floats
from mlops_assets.core.monitoring.estimation import REFIT_ROWS
from mlops_assets.core.monitoring.health import DataHealth, ModelHealth
from mlops_assets.core.monitoring.performance import SCALES
from mlops_assets.core.monitoring.profile import WindowProfile
from mlops_assets.core.monitoring.windows import Windows
from mlops_assets.core.spec import ModelSpec
from mlops_assets.operations.answers import Answers, Labelled, Outcomes, answers_of, labelled_of
from mlops_assets.operations.live_traffic import live_windows, read_window
from mlops_assets.operations.reference import Reference
from mlops_assets.operations.stores import Stores
from mlops_assets.operations.window_data import WindowData

DATA_HEALTH, MODEL_HEALTH, PROFILES = "data_health", "model_health", "profiles"
_LOOK_BACK = timedelta(days=60)  # beyond the label's delay, in which labelled rows are looked for to calibrate anew
_TABLES_KEPT = 3
_HEALTH_LOOK_BACK = 60  # windows in which those whose data failed are not counted


class _Profile(msgspec.Struct, frozen=True):
    """A window's profile by the cells of one bundle's reference."""

    bundle: str
    rows: int
    counts: list[int]
    minimum: list[float]
    maximum: list[float]
    phase: list[float]

    @classmethod
    def of(cls, bundle: str, profile: WindowProfile) -> "_Profile":
        arrays = (profile.counts, profile.minimum, profile.maximum, profile.phase)
        return cls(bundle, profile.rows, *(array.tolist() for array in arrays))

    def profile(self) -> WindowProfile:
        arrays = (np.array(values, dtype=float) for values in (self.minimum, self.maximum, self.phase))
        return WindowProfile(self.rows, np.array(self.counts, dtype=np.int64), *arrays)


class Readings:
    """What one model's windows hold, read as it is asked for."""

    def __init__(self, spec: ModelSpec, stores: Stores) -> None:
        self.spec, self.stores, self.windows = spec, stores, Windows.of(spec)
        self._references: dict[str, Reference | None] = {}
        self._answers: dict[str, Answers] = {}
        self._walked: dict[str, Outcomes] = {}
        self._classes: dict[str, tuple[str | int, ...]] = {}

    def answers(self, window: str) -> Answers:
        """The rows of a window; of an empty one where no traffic came."""
        if window not in self._answers:
            while len(self._answers) >= _TABLES_KEPT:  # a window's rows may be many: only the last few are held
                self._answers.pop(next(iter(self._answers)))
            self._answers[window] = answers_of(read_window(self.spec, self.stores, window))
        return self._answers[window]

    def reference(self, bundle: str | None) -> Reference | None:
        """The reference that a bundle carries; None where it carries none, or is no longer stored."""
        if bundle is None or bundle not in self.stores.bundles:
            return None
        if bundle not in self._references:
            self._references[bundle] = Reference.of(self.spec, self.stores.bundles.get(bundle))
        return self._references[bundle]

    def data_history(self, window: str, count: int) -> list[DataHealth]:
        """The verdicts on the data of the last `count` windows up to this one, as far as they have been made, oldest first."""
        found = (self._document(DATA_HEALTH, key, DataHealth) for key in self.windows.last(window, count))
        return [one for one in found if one is not None]

    def model_history(self, window: str, count: int) -> list[ModelHealth]:
        """The verdicts on the answers of the last `count` windows up to this one, as far as they have been made, oldest first."""
        found = (self._document(MODEL_HEALTH, key, ModelHealth) for key in self.windows.last(window, count))
        return [one for one in found if one is not None]

    def newest_data_health(self) -> DataHealth | None:
        """The verdict on the data of the newest window that has one."""
        newest = self._newest_of(DATA_HEALTH)
        return None if newest is None else self._document(DATA_HEALTH, newest, DataHealth)

    def newest_model_health(self, count: int) -> list[ModelHealth]:
        """The verdicts on the answers of the newest windows, oldest first."""
        newest = self._newest_of(MODEL_HEALTH)
        return [] if newest is None else self.model_history(newest, count)

    def _newest_of(self, kind: str) -> str | None:
        lake, model = self.stores.lake, self.spec.name
        return next((key for key in sorted(self._live, reverse=True) if lake.has(model, f"{kind}/{key}")), None)

    @cached_property
    def _live(self) -> dict[str, LiveWindow]:
        return live_windows(self.spec, self.stores)

    def labelled(self, window: str) -> Labelled:
        """The labelled answers of a window, of the version that answered most of it."""
        answers = self.answers(window)
        return labelled_of(self.spec, answers.of_one_version(), self._classes_of(answers.bundle))

    def _classes_of(self, bundle: str | None) -> tuple[str | int, ...]:
        if bundle is None or bundle not in self.stores.bundles:
            return self.spec.label.classes or ()
        if bundle not in self._classes:
            self._classes[bundle] = self.stores.bundles.get(bundle).manifest.classes
        return self._classes[bundle]

    def newest_event(self) -> datetime | None:
        """The newest event time, or moment of a label, in the windows that have enough rows to be believed."""
        fewest = self.spec.monitoring.min_rows
        believed = [one for one in self._live.values() if one.answered >= fewest]
        known = (moment for one in believed for moment in (one.last_event_at, one.last_label_observed_at) if moment)
        return max(known, default=None)

    def _document(self, kind: str, window: str, what: type[Any]) -> Any:
        try:
            return self.stores.lake.read_document(self.spec.name, f"{kind}/{window}", what)
        except FileNotFoundError:
            return None

    def labelled_since(self, moment: datetime, window: str) -> int:
        """Labelled rows of the windows from a moment on up to one, without those whose data failed."""
        keys = [key for key in self._live if key <= window and self.windows.bounds(key)[0] >= moment]
        recent = self.data_history(window, min(len(keys), _HEALTH_LOOK_BACK))
        failed = {one.window for one in recent if one.verdict == "failed"}
        return sum(self._live[key].labelled for key in keys if key not in failed)

    def forget(self, windows: Iterable[str]) -> None:
        """Read anew what has changed in these windows, and which windows there are."""
        self.__dict__.pop("_live", None)
        for window in windows:
            self._answers.pop(window, None)
            self._walked.pop(window, None)

    def current_reference(self) -> Reference | None:
        """The reference of the champion."""
        plan = self.stores.releases.current(self.spec.name)
        return None if plan is None else self.reference(plan.champion.bundle)

    def profile(self, window: str, bundle: str, reference: Reference) -> WindowProfile:
        """Count a window by the cells of a bundle's reference, and write that down."""
        profile = WindowData(self.spec, self.stores, window).profile(reference.profile)
        self.stores.lake.write_document(self.spec.name, f"{PROFILES}/{window}", _Profile.of(bundle, profile))
        return profile

    def recent_profiles(
        self, window: str, bundle: str, reference: Reference, newest: WindowProfile
    ) -> list[WindowProfile]:
        """The profiles of the windows before, as far as tests over several of them reach, and of this one."""
        recent = []
        for key in self.windows.last(window, max(SCALES))[:-1]:
            kept = self._document(PROFILES, key, _Profile)
            if kept is not None and kept.bundle == bundle:
                recent.append(kept.profile())
            elif key in self._live and self._live[key].answered:
                recent.append(self.profile(key, bundle, reference))
        return [*recent, newest]

    def earlier(self, window: str, bundle: str | None) -> list[ModelHealth]:
        """The verdicts on the windows before this one that the same model answered."""
        count = max(*SCALES, self.spec.monitoring.confirm.of)
        found = (self._document(MODEL_HEALTH, key, ModelHealth) for key in self.windows.last(window, count)[:-1])
        return [one for one in found if one is not None and one.bundle == bundle]

    def known_before(self, window: str, bundle: str | None) -> tuple[Floats, Floats]:
        """Truths and outputs of one model's newest answers whose labels were known when a window began, oldest first."""
        begin, found = self.windows.bounds(window)[0], 0
        earliest = self.windows.key(begin - self.spec.label.delay - _LOOK_BACK)
        parts: list[tuple[Floats, Floats]] = []
        walked: dict[str, Outcomes] = {}
        for key in sorted((key for key in self._live if earliest <= key < window), reverse=True):
            if found >= REFIT_ROWS:
                break
            walked[key] = self._walked[key] if key in self._walked else self.labelled(key).outcomes
            if walked[key].bundle == bundle:
                parts.append(walked[key].known_at(begin))
                found += len(parts[-1][0])
        self._walked = walked  # the next window looks no further back, and a year of hours is not held
        if not parts:
            return np.empty(0), np.empty((0, 2))
        truths, outputs = zip(*reversed(parts), strict=True)
        return np.concatenate(truths), np.concatenate(outputs)
