"""Predictions that are answered within one turn of the event loop: one row, for a version that is quick, and nothing to wait for.

The protocol hands such requests over without a task for each (`http_protocol.py`). All that came in one turn are logged in one
write before any of them is answered. A request with anything unusual about it goes the usual way (`app.py`), and nothing has been
done then, but that it is not asked again what was found out: refusals of what it says, failures and versions that stand in
are told and counted there alone. Here are told and counted answers, and what is turned away or could not be logged.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from opentelemetry.context import Context

from mlops_assets.core.records import PredictionRecord
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving.asking import DRAWN, FAILURE, Part, Turn, is_of_the_share
from mlops_assets.serving.contract import NotOneRow, PredictItem, RawRow
from mlops_assets.serving.door import Door
from mlops_assets.serving.errors import Headers, Refusal
from mlops_assets.serving.http_protocol import Caller, GoTheUsualWay
from mlops_assets.serving.metrics import RequestMetrics
from mlops_assets.serving.predict import count_block, failure_record, not_logged, record_and_answer, shadow_of
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets.serving.scoring import Block, VersionFailed, put_at_once
from mlops_assets.serving.shadow import ShadowJob
from mlops_assets.serving.shedding import DEADLINE_HEADER
from mlops_assets.serving.state import LiveModel, Snapshot
from mlops_assets.serving.tracing import Traces
from mlops_assets.stores.prediction_log import LogError

logger = logging.getLogger("bentoml.mlops_assets.at_once")

DEBUG_HEADER = b"x-mlops-debug"
TAKEN_IN = "mlops.taken_in"  # in the scope of a request that was found not to wait too long
_ROUTE: Final = "predict"
_JSON = b"application/json"
_UNUSUAL = frozenset({DEBUG_HEADER, DEADLINE_HEADER, b"content-encoding"})
_MOST_HELD = 64  # before the first of them is answered
_NO_HEADERS: Headers = ()
_AS_USUAL = GoTheUsualWay({})


class _Given(msgspec.Struct):
    """What a request for one row is answered."""

    block: Block
    record: PredictionRecord
    shadow: ShadowJob | None


class _Held(msgspec.Struct):
    """A request that waits for the end of the turn; nothing is `given` to one that is turned away."""

    caller: Caller
    champion: LiveModel
    started: float
    status: int
    body: bytes
    headers: Headers = _NO_HEADERS
    given: _Given | None = None
    span_of: Context | None = None


class AtOnce:
    """Answers what can be answered at once. One per worker, on the event loop alone."""

    def __init__(self, runtime: ServingRuntime, door: Door, requests: RequestMetrics) -> None:
        self.traces: Traces | None = None
        self._runtime = runtime
        self._door = door
        self._requests = requests
        self._loop: asyncio.AbstractEventLoop | None = None
        self._snapshot: Snapshot | None = None
        self._models: dict[bytes, LiveModel] = {}
        self._held: list[_Held] = []

    def takes(self, target: bytes) -> bool:
        """Whether requests to this target, as the request line has it, may be answered at once."""
        snapshot = self._runtime.state.snapshot
        if snapshot is not self._snapshot:
            self._look_at(snapshot)
        return target in self._models

    def take(
        self, caller: Caller, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> GoTheUsualWay | None:
        """Answer a request at the end of this turn, or say that it has to go the usual way.

        Parameters
        ----------
        target
            One that `takes` knows.
        headers
            Their names in small letters.
        body
            All of it.
        """
        started = time.perf_counter()
        try:
            held = self._found(caller, self._models[target], headers, body, started)
        except Exception:
            # The edge: the parser above would call the caller wrong.
            logger.exception("A request could not be answered at once")
            return _AS_USUAL
        if isinstance(held, GoTheUsualWay):
            return held
        self._held.append(held)
        if len(self._held) == 1:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.end_turn)
        elif len(self._held) >= _MOST_HELD:
            self.end_turn()
        return None

    def end_turn(self) -> None:
        """Log what was taken, then answer it. Whoever is about to write to a caller, or to leave, calls this first."""
        if not self._held:
            return
        held, self._held = self._held, []
        records = [one.given.record for one in held if one.given is not None]
        try:
            self._runtime.append_at_once(records)
        except LogError as error:
            self._take_back(held, error)
        except Exception as error:
            # The edge: nobody would ever be answered.
            logger.exception("What was answered at once could not be logged")
            self._take_back(held, error)
        now = time.perf_counter()
        for one in held:
            try:
                one.caller.reply(one.status, one.body, one.headers)
            except Exception:
                # The edge: the others are to be answered.
                logger.exception("An answer could not be given to its caller")
        for one in held:
            self._count(one, now - one.started)

    def _look_at(self, snapshot: Snapshot) -> None:
        runtime = self._runtime
        waits = runtime.waits_for_disk or runtime.means.cache is not None
        self._snapshot = snapshot
        self._models = {
            f"/v1/models/{name}/predict".encode(): live
            for name, live in snapshot.models.items()
            if live.is_quick and not waits and name not in snapshot.retired
        }

    def _is_plain(self, headers: dict[bytes, bytes], body: bytes) -> bool:
        return (
            _UNUSUAL.isdisjoint(headers)
            and headers.get(b"content-type", _JSON) == _JSON
            and len(body) <= self._runtime.settings.max_body_bytes
            and self._door.knows(headers, _ROUTE)
        )

    def _found(
        self, caller: Caller, champion: LiveModel, headers: Sequence[tuple[bytes, bytes]], body: bytes, started: float
    ) -> _Held | GoTheUsualWay:
        if not self._is_plain(dict(headers), body):
            return _AS_USUAL
        refusal = self._runtime.shedder.refusal(champion.manifest.model)
        if refusal is not None:
            held = _Held(caller, champion, started, refusal.status, refusal.body, refusal.headers)
        else:
            try:
                item, row = champion.contract.decode_one(body)
            except (NotOneRow, Refusal):
                return GoTheUsualWay({TAKEN_IN: True})  # which finds it again, and says what is wrong
            try:
                answered = self._answered(caller, champion, item, row, started)
            except ScorerError:
                return GoTheUsualWay({TAKEN_IN: True, DRAWN: item.id})
            except VersionFailed as failure:
                return GoTheUsualWay({TAKEN_IN: True, DRAWN: item.id, FAILURE: failure})
            if answered is None:
                return GoTheUsualWay({TAKEN_IN: True, DRAWN: item.id})
            held = answered
        if self.traces is not None:
            held.span_of = self.traces.sampled(headers)
        return held

    @staticmethod
    def _answered(caller: Caller, champion: LiveModel, item: PredictItem, row: RawRow, started: float) -> _Held | None:
        """The answer of whoever is asked first; None where that one is not to be asked now. Raises what goes wrong with it."""
        challenger = champion.beside.challenger
        live = champion
        if challenger is not None and challenger.role != "shadow" and is_of_the_share(champion, item):
            live = challenger
        if not (live.is_quick and live.breaker.is_closed):
            return None
        block = put_at_once(live, [row])
        record, answer = record_and_answer(item, block, started)
        given = _Given(block, record, shadow_of(champion, [record], [row]))
        return _Held(caller, champion, started, 200, answer, _NO_HEADERS, given)

    def _take_back(self, held: list[_Held], error: Exception) -> None:
        """Let all be told that what they were to be given could not be logged."""
        failures = []
        for one in held:
            if one.given is not None:
                refusal = not_logged(one.champion, error)
                one.status, one.body, one.headers, one.given = refusal.status, refusal.body, refusal.headers, None
                failures.append(failure_record(one.champion, refusal.status, str(refusal), one.started))
        try:
            self._runtime.append_at_once(failures)
        except LogError as again:
            logger.error("%d failed requests are not on record: %s", len(failures), again)
        except Exception:
            # The edge: they are to be told all the same.
            logger.exception("%d failed requests are not on record", len(failures))

    def _count(self, one: _Held, seconds: float) -> None:
        runtime, given, model = self._runtime, one.given, one.champion.manifest.model
        self._requests.observe(model, _ROUTE, one.status, seconds)
        if given is None:
            one.champion.counter.observe(one.status, seconds)
        else:
            block = given.block
            block.live.counter.observe(one.status, seconds)
            count_block(block, [given.record])
            if runtime.shedder.learns:
                runtime.shedder.answered(model, block.seconds)
            if given.shadow is not None:
                given.shadow.rest_s, given.shadow.scoring_s = seconds - block.seconds, block.seconds
                runtime.shadows.offer(given.shadow)
        if one.span_of is not None and self.traces is not None:
            turn = None
            if given is not None:
                turn = Turn(one.champion)
                turn.parts, turn.records = [Part(given.block, range(1), None)], [given.record]
            self.traces.record(one.span_of, "POST", model, _ROUTE, one.status, seconds, turn)
