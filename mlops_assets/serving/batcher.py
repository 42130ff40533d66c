"""Scoring off the event loop. Rows for a model that is not compiled are scored together: all that came while the last were scored.

scikit-learn takes hardly longer for a hundred rows than for one. Nobody waits for others to come: a batch begins as soon as the
scorer is free, with what is there.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from weakref import WeakKeyDictionary

import msgspec

from mlops_assets.core.scoring.scorer import Scorer
from mlops_assets.serving.contract import RawRow
from mlops_assets.serving.metrics import BatchMetrics
from mlops_assets.serving.shedding import queue_full
from mlops_assets.serving.state import LiveModel

BATCH_ROWS = 1024
WAITING_ROWS = 20_000

_NEW = 0.2  # weight of the newest batch in the usual one

Outputs = list[list[float]]


class Scored(msgspec.Struct):
    """Outputs of rows, and the seconds that the scorer took, for other rows too where it scored them together."""

    outputs: Outputs
    seconds: float


class Batchers:
    """Scores rows in the threads of an executor. On the event loop alone.

    Parameters
    ----------
    waiting_rows
        That may wait for one model.

    Attributes
    ----------
    is_used
        Whether any slow model has been asked.
    """

    def __init__(self, executor: Executor, waiting_rows: int = WAITING_ROWS) -> None:
        self.is_used = False
        self._executor = executor
        self._waiting_rows = waiting_rows
        self._batchers: WeakKeyDictionary[LiveModel, Batcher] = WeakKeyDictionary()

    async def score(self, live: LiveModel, rows: list[RawRow]) -> Scored:
        """Score rows of one request, in a batch with others' where the model is slow.

        Raises
        ------
        Refusal
            503, when too many rows wait.

        Whatever else the scorer raises for these rows alone.
        """
        if not live.is_slow:
            return await asyncio.get_running_loop().run_in_executor(self._executor, _timed, live.scorer, rows)
        batcher = self._batchers.get(live)
        if batcher is None:
            self.is_used = True
            # What a challenger has no room for, the champion answers: nobody is turned away.
            counts = live.role != "challenger"
            batcher = Batcher(live.manifest.model, live.scorer, self._executor, self._waiting_rows, counts)
            self._batchers[live] = batcher
        return await batcher.score(rows)

    def wait_s(self, live: LiveModel) -> float:
        """Seconds until scoring would begin for one more request."""
        batcher = self._batchers.get(live)
        return 0.0 if batcher is None else batcher.wait_s()


class _Job(msgspec.Struct):
    rows: list[RawRow]
    future: asyncio.Future[Scored]


class Batcher:
    """Gathers the rows of several requests for one scorer, which works on one batch at a time.

    Parameters
    ----------
    waiting_rows
        That may wait.
    counts
        Whether a request that finds no room is turned away, and counted for that.
    """

    def __init__(self, model: str, scorer: Scorer, executor: Executor, waiting_rows: int, counts: bool = True) -> None:
        self._model = model
        self._scorer = scorer
        self._executor = executor
        self._waiting_rows = waiting_rows
        self._counts = counts
        self._metrics = BatchMetrics(model)
        self._waiting: deque[_Job] = deque()
        self._rows = 0
        # Of a batch that failed: each on its own, so that no request pays for what is in another.
        self._alone: deque[_Job] = deque()
        self._usual_s = 0.0
        self._began: float | None = None

    async def score(self, rows: list[RawRow]) -> Scored:
        if self._rows and self._rows + len(rows) > self._waiting_rows:
            raise queue_full(self._model, is_counted=self._counts)
        job = _Job(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._rows += len(rows)
        if self._began is None:
            self._begin()
        return await job.future

    def wait_s(self) -> float:
        if self._began is None:
            return 0.0
        left = max(0.0, self._usual_s - (time.perf_counter() - self._began))
        return left + self._usual_s * (len(self._alone) + self._rows // BATCH_ROWS)

    def _begin(self) -> None:
        """Put the next batch to the scorer, if anything waits."""
        jobs = self._next()
        if not jobs:
            self._began = None
            return
        self._began = time.perf_counter()
        rows = jobs[0].rows if len(jobs) == 1 else [row for job in jobs for row in job.rows]
        self._metrics.rows.observe(len(rows))
        work = asyncio.get_running_loop().run_in_executor(self._executor, _timed, self._scorer, rows)
        work.add_done_callback(partial(self._end, jobs))

    def _next(self) -> list[_Job]:
        while self._alone:
            job = self._alone.popleft()
            if not job.future.done():
                return [job]
        jobs: list[_Job] = []
        rows = 0
        while self._waiting and (not jobs or rows + len(self._waiting[0].rows) <= BATCH_ROWS):
            job = self._waiting.popleft()
            self._rows -= len(job.rows)
            if not job.future.done():  # or its caller has left
                jobs.append(job)
                rows += len(job.rows)
        return jobs

    def _end(self, jobs: Sequence[_Job], work: asyncio.Future[Scored]) -> None:
        if work.cancelled():
            for job in jobs:
                job.future.cancel()
        elif (error := work.exception()) is None:
            self._deal_out(jobs, work.result())
        elif len(jobs) > 1:
            self._alone.extend(jobs)
        elif not jobs[0].future.done():
            jobs[0].future.set_exception(error)
        self._begin()

    def _deal_out(self, jobs: Sequence[_Job], scored: Scored) -> None:
        self._usual_s += (_NEW if self._usual_s else 1.0) * (scored.seconds - self._usual_s)
        start = 0
        for job in jobs:
            end = start + len(job.rows)
            if not job.future.done():
                job.future.set_result(Scored(scored.outputs[start:end], scored.seconds))
            start = end


def score_now(scorer: Scorer, rows: list[RawRow]) -> Outputs:
    """The outputs of rows, one list a row."""
    outputs: Outputs = scorer.score_rows(rows).tolist()
    return outputs


def _timed(scorer: Scorer, rows: list[RawRow]) -> Scored:
    begun = time.perf_counter()
    return Scored(score_now(scorer, rows), time.perf_counter() - begun)
