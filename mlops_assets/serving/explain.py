"""`POST /v1/models/<name>/explain`: which answer is explained, by which version, and what is said. HTTP is in `app.py`.

An explanation is no prediction: it is not logged, counts for no version, and goes past breakers, cache and shadows. How answers are
attributed is told in `core/explaining.py`, where that is done in `explain_process.py`.
"""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import numpy as np
import uuid_utils

from mlops_assets.core.explaining import BACKGROUND, Attribution, CannotExplain, NotInstalled, Question
from mlops_assets.core.records import SHADOW, PredictionRecord, Role
from mlops_assets.core.scoring.scorer import TOLERANCE, ScorerError, differences
from mlops_assets.serving.contract import Key, RawRow, RawValue, field_names, refusal_of
from mlops_assets.serving.errors import Refusal
from mlops_assets.serving.explain_process import Asking, ExplainerFailed, Lookup
from mlops_assets.serving.metrics import count_shed
from mlops_assets.serving.predict import outputs_of
from mlops_assets.serving.shedding import SHED
from mlops_assets.serving.state import LiveModel
from mlops_assets.stores.api_keys import Permission
from mlops_assets.stores.bundles import Bundle, BundleError
from mlops_assets.stores.log_search import Limits, Search
from mlops_assets.stores.prediction_log import LogError, PredictionLog

MOST_WAITING = 8
MOST_SECONDS = 30.0
STARTING = "starting"
# An id that tells no time, or a wrong one, is looked for from the newest segment backwards: to here and no further.
LOOK_BACK = Limits(bytes=1024**3, segments=2_000, seconds=10.0, records=1_000)

_ENCODE = msgspec.json.Encoder().encode
_RETRY = ((b"retry-after", b"5"),)
_STARTING = "the explainer is starting; the first explanation of a worker takes longer: ask again"
_IS_ID = re.compile(rb'\s*\{\s*"prediction_id"\s*:').match


class ById(msgspec.Struct, forbid_unknown_fields=True):
    """A request to explain an answer that is on record."""

    prediction_id: Key


class Contribution(msgspec.Struct, omit_defaults=True):
    """What one feature, with the value that was received, adds to the answer; the flags are said where they hold."""

    feature: str
    value: RawValue
    contribution: float
    imputed: bool = False
    out_of_domain: bool = False


class Explanation(msgspec.Struct):
    """The answer: `base_value` plus all contributions is `explained_value`; those that matter most come first.

    Attributes
    ----------
    space
        "log-odds", "probability" or "value": what the contributions are counted in.
    explained_class
        Whose log-odds or probability that is; not said of a regression.
    """

    prediction_id: str
    model: str
    model_version: int
    release: int
    role: str
    prediction: float | int | str
    probability: float | msgspec.UnsetType
    probabilities: dict[str, float] | msgspec.UnsetType
    space: str
    explained_class: int | str | msgspec.UnsetType
    explained_value: float
    base_value: float
    contributions: list[Contribution]


@dataclass(frozen=True)
class Case:
    """One answer to be explained.

    Attributes
    ----------
    row, used
        In the order of the version's contract: as received, and without what was taken for missing.
    output
        What was answered then; None where nothing was.
    """

    prediction_id: str
    live: LiveModel
    release: int
    role: Role
    row: RawRow
    used: RawRow
    output: tuple[float, ...] | None = None


class Explainer:
    """Has one explanation made after the other, from a thread of its own. On the event loop alone, but for `close`.

    Parameters
    ----------
    bundle_of
        The bundle of an id; raises `BundleError` when it is not whole.
    asking
        Attributes answers and searches the log, in another process: here it would hold up whoever is answered meanwhile.
    waiting
        Explanations that may wait or be made; further ones are answered 503.
    seconds
        Longest that a caller waits. What has been begun is ended all the same.
    look_back
        How far answers on record are looked for.
    """

    def __init__(
        self,
        bundle_of: Callable[[str], Bundle],
        log: PredictionLog,
        asking: Asking,
        waiting: int = MOST_WAITING,
        seconds: float = MOST_SECONDS,
        look_back: Limits = LOOK_BACK,
    ) -> None:
        self._bundle_of = bundle_of
        self._log = log
        self._asking = asking
        self._look_back = look_back
        self._most = waiting
        self._seconds = seconds
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explaining")
        self.waiting = 0

    async def explain(self, live: LiveModel, body: bytes, require: Callable[[Permission], None]) -> bytes:
        """Read a request and answer it.

        Parameters
        ----------
        live
            The champion, with those beside it.
        require
            Raises `Refusal` 403 where the caller's key lacks a scope. Who sends a row may ask for what it would be answered
            anyway; an answer on record may be anybody's.

        Raises
        ------
        Refusal
            As for `predict` what does not fit the contract; 404 for an id that is not on record; 409 for an answer that cannot be
            explained; 501 without `shap`; 503 when too many wait, or it takes too long, or what makes explanations is starting.
        """
        by_id = _IS_ID(body) is not None
        require("explain" if by_id else "predict")
        wanted = _by_id(body) if by_id else _of_row(live, body)
        if self.waiting >= self._most:
            raise self._turned_away(live, "too many explanations are being made: come back later")
        self.waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._executor, self._made, live, wanted)
        work.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(work), self._seconds)
        except TimeoutError:
            message = f"the explanation was not ready within {self._seconds:g} s: come back later"
            raise self._turned_away(live, message) from None

    def close(self) -> None:
        """Have no more made; what is asked is to be ended first."""
        self._executor.shutdown(cancel_futures=True)

    def _turned_away(self, live: LiveModel, overloaded: str) -> Refusal:
        """What to say to a caller who cannot wait; where nothing is overloaded, that it is starting."""
        count_shed(live.manifest.model, "explain")
        if self._asking.is_starting:
            return Refusal(503, STARTING, _STARTING, headers=_RETRY)
        return Refusal(503, SHED, overloaded, headers=_RETRY)

    def _ended(self, work: "asyncio.Future[bytes]") -> None:
        self.waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody may be left to ask for it

    def _made(self, live: LiveModel, wanted: "Case | ById") -> bytes:
        case = wanted if isinstance(wanted, Case) else self._on_record(live, wanted.prediction_id)
        manifest = case.live.manifest
        who = f"version {manifest.version} of {manifest.model}"
        try:
            files = self._bundle_of(case.live.bundle).files
            if BACKGROUND not in files:
                raise CannotExplain("its bundle holds no rows of the training to compare with: train the model again")
            found = self._asking.attribute(Question(case.live.bundle, manifest, files, _taken_away(case), case.used))
        except NotInstalled as error:
            raise Refusal(501, "not_installed", str(error)) from error
        except (CannotExplain, BundleError) as error:
            raise Refusal(409, "not_explainable", f"an answer of {who} cannot be explained: {error}") from error
        except ScorerError as error:
            raise Refusal(422, "invalid_value", str(error), "features") from error
        except ExplainerFailed as error:
            raise Refusal(503, "not_explained", str(error), headers=_RETRY) from error
        if case.output is not None:
            apart = differences(np.array([found.outputs]), np.array([case.output]))
            if not (apart <= TOLERANCE).all():
                message = f"{who} does not answer this row today as is on record: {found.outputs} and not {case.output}"
                raise Refusal(409, "not_explainable", message)
        return _ENCODE(_told(case, found))

    def _on_record(self, live: LiveModel, prediction_id: str) -> Case:
        model = live.manifest.model
        try:
            searched = self._asking.search(Lookup(str(self._log.root), prediction_id, self._look_back))
        except (LogError, ExplainerFailed) as error:
            raise Refusal(503, "not_readable", f"the prediction log cannot be read: {error}", headers=_RETRY) from error
        records = [one for one in searched.records if one.model == model and one.role != SHADOW]
        if not records:
            raise _not_found(model, prediction_id, searched)
        return _case_of(live, records[-1])


def _not_found(model: str, prediction_id: str, searched: Search) -> Refusal:
    if searched.unreadable and not searched.records:
        message = f"the prediction log cannot be read: the record of {prediction_id} is lost: {searched.unreadable}"
        return Refusal(503, "not_readable", message, headers=_RETRY)
    message = f"no answer of {model} has the id {prediction_id!r}"
    if searched.back_to is None or searched.records:
        return Refusal(404, "unknown_prediction", f"{message}, or its record has been cleared away", "prediction_id")
    since = (
        f"in what was logged from {searched.back_to:%Y-%m-%d %H:%M:%S}Z on, nor at the time that the id tells, if any"
    )
    if searched.out_of_time:
        message = f"{message} {since}; to look further back took too long"
        return Refusal(503, "not_found_yet", message, headers=_RETRY)
    message = f"{message} {since}: `mlops-assets trace` looks through the whole log"
    return Refusal(404, "unknown_prediction", message, "prediction_id")


def _by_id(body: bytes) -> ById:
    try:
        return msgspec.json.decode(body, type=ById)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refusal_of(error, body, {"": field_names(ById)}) from None


def _of_row(live: LiveModel, body: bytes) -> Case:
    items, rows, many = live.contract.decode(body, 1)
    if many:
        raise Refusal(422, "invalid_value", "one row is explained at a time: send it alone, not in a list", "rows")
    if live.constant is not None:
        raise _constant(live)
    used = rows[0] if live.mask is None else live.mask(rows[0])
    return Case(items[0].id or str(uuid_utils.uuid7()), live, live.plan.release, live.role, rows[0], used)


def _case_of(champion: LiveModel, record: PredictionRecord) -> Case:
    """The answer on record, by the version that gave it. Raises `Refusal` 409 where there is none, or it is not loaded."""
    if record.status != 200:
        raise Refusal(
            409, "not_explainable", f"this request was answered {record.status}, with no prediction: {record.error}"
        )
    if record.role == "fallback":
        raise _constant(champion)
    loaded = [champion, *champion.beside.loaded.values()]
    live = next((one for one in loaded if one.bundle == record.bundle and one.role != "fallback"), None)
    if live is None:
        there = ", ".join(sorted({str(one.manifest.version) for one in loaded}))
        message = f"version {record.version} gave this answer, and is not loaded any more: there is {there}"
        raise Refusal(409, "not_loaded", message, "prediction_id")
    missing = frozenset(record.imputed)
    used = tuple(
        None if name in missing else value for name, value in zip(live.scorer.features, record.features, strict=True)
    )
    return Case(record.id, live, record.release, record.role, record.features, used, record.output)


def _taken_away(case: Case) -> tuple[str, ...]:
    """The features whose values the plan does not trust: received, and not used. What is so in every row says nothing of one."""
    values = zip(case.live.scorer.features, case.row, case.used, strict=True)
    return tuple(name for name, received, used in values if received is not None and used is None)


def _constant(live: LiveModel) -> Refusal:
    message = f"a constant was answered in place of {live.manifest.model}, which goes by no feature"
    return Refusal(409, "not_explainable", message)


def _told(case: Case, found: Attribution) -> Explanation:
    live = case.live
    manifest = live.manifest
    imputed, outside = live.domain.flags(case.used)
    contributions = [
        Contribution(feature.name, value, contribution, feature.name in imputed, feature.name in outside)
        for feature, value, contribution in zip(manifest.features, case.row, found.contributions, strict=True)
    ]
    contributions.sort(key=lambda one: -abs(one.contribution))
    prediction, probability, probabilities = outputs_of(live, found.outputs)
    return Explanation(
        prediction_id=case.prediction_id,
        model=manifest.model,
        model_version=manifest.version,
        release=case.release,
        role=case.role,
        prediction=prediction,
        probability=probability,
        probabilities=probabilities,
        space=found.space,
        explained_class=manifest.classes[found.output] if manifest.classes else msgspec.UNSET,
        explained_value=found.value,
        base_value=found.base,
        contributions=contributions,
    )
