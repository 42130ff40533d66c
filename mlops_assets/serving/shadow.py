"""Scoring a challenger beside the champion, after the reply: what it would have answered goes to the log and to nobody else.

It can neither delay nor fail an answer: it waits in a bounded queue, and what finds the queue full is dropped and counted.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from mlops_assets.core.records import SHADOW, PredictionRecord, Record
from mlops_assets.core.scoring.scorer import ScorerError
from mlops_assets.serving.agreement import count_agreeing
from mlops_assets.serving.batcher import Batchers
from mlops_assets.serving.contract import RawRow
from mlops_assets.serving.metrics import ShadowMetrics
from mlops_assets.serving.scoring import Block, Means, VersionFailed, put_to, score_at_once
from mlops_assets.serving.state import LiveModel
from mlops_assets.stores.prediction_log import LogError

logger = logging.getLogger("bentoml.mlops_assets.shadow")

MOST_ROWS = 10_000
# Before requests that came meanwhile are looked at: the more wait, the more, so that callers by the dozen are kept up with.
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 32, 256
_SHARE_AT_ONCE = 16
_DRAIN_SECONDS = 2.0


class ShadowJob(msgspec.Struct):
    """Rows that were answered and are scored by a challenger too.

    Attributes
    ----------
    records
        Of the answers, as they were logged.
    rows
        As received, in the order of the champion's contract.
    rest_s, scoring_s
        Seconds of the request that were not spent on scoring, and those that were: with its own scoring, the latency that the
        challenger would have had.
    """

    challenger: LiveModel
    records: list[PredictionRecord]
    rows: list[RawRow]
    rest_s: float = 0.0
    scoring_s: float = 0.0


class ShadowQueue:
    """One worker's queue. Everything but slow scoring happens on the event loop, between requests.

    Parameters
    ----------
    append
        Writes records to the log; raises `LogError`, which costs the shadow and nothing else.
    most_rows
        That may wait at a time.
    """

    def __init__(self, append: Callable[[Sequence[Record]], Awaitable[None]], most_rows: int = MOST_ROWS) -> None:
        self._append = append
        self._most_rows = most_rows
        self._waiting: deque[ShadowJob] = deque()
        self._rows = 0
        self._wake = asyncio.Event()
        self._metrics: dict[str, ShadowMetrics] = {}
        self._task: asyncio.Task[None] | None = None
        # Of its own, so that a slow challenger never stands in the way of an answer.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow")
        self._means = Means(Batchers(self._pool))

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    def start(self) -> None:
        """Begin to score what is offered. Called on the event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Score what waits, as far as that is done soon; the rest is dropped and counted."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while self._rows:
                        await asyncio.sleep(0.005)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for job in self._waiting:
            self._drop(job, "stopped")
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def offer(self, job: ShadowJob) -> None:
        """Take a request's rows, unless too many wait already."""
        if self._rows + len(job.rows) > self._most_rows:
            self._drop(job, "full")
            return
        self._waiting.append(job)
        self._rows += len(job.rows)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                jobs = self._next()
                rows = sum(len(job.rows) for job in jobs)
                try:
                    await self._score(jobs)
                except Exception:
                    # The edge of a task that nobody waits for: the next request is shadowed all the same.
                    logger.exception("A shadow could not be scored or recorded")
                    for job in jobs:
                        self._drop(job, "error")
                finally:
                    self._rows -= rows
                # Twice: replies that were given meanwhile are written before the next block, and not behind it.
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    def _next(self) -> list[ShadowJob]:
        """The requests that are scored together: of one challenger that is quick, few enough to keep nobody waiting."""
        jobs = [self._waiting.popleft()]
        live, rows = jobs[0].challenger, len(jobs[0].rows)
        most = min(_FEWEST_AT_ONCE + self._rows // _SHARE_AT_ONCE, _MOST_AT_ONCE)
        while self._waiting and live.is_quick and self._waiting[0].challenger is live:
            rows += len(self._waiting[0].rows)
            if rows > most:
                break
            jobs.append(self._waiting.popleft())
        return jobs

    async def _score(self, jobs: list[ShadowJob]) -> None:
        live = jobs[0].challenger
        if len(jobs) > 1 and live.breaker.is_closed:
            try:
                block = score_at_once(live, [row for job in jobs for row in job.rows])
            except (VersionFailed, ScorerError):
                pass  # one by one, so that none pays for what is in another
            else:
                await self._record(jobs, _shares(jobs, block))
                return
        for job in jobs:
            await self._score_alone(job)

    async def _score_alone(self, job: ShadowJob) -> None:
        live = job.challenger
        if not (live.breaker.is_closed or live.breaker.admits()):
            self._drop(job, "breaker")
            return
        try:
            block = await put_to(live, job.rows, self._means)
        except VersionFailed as failure:
            live.failed(failure.trouble)
            await self._write([job], _failed(job, str(failure)))
        except ScorerError as error:
            # The champion answered these very rows: no caller is at fault.
            live.failed("error")
            await self._write([job], _failed(job, f"{live.who}: {error}"))
        else:
            await self._record([job], [block])

    async def _record(self, jobs: list[ShadowJob], blocks: list[Block]) -> None:
        """Count and log what was answered, a block for each of the jobs; the breaker has been told of a job that was alone."""
        live = jobs[0].challenger
        rows = agreeing = 0
        records: list[PredictionRecord] = []
        for job, block in zip(jobs, blocks, strict=True):
            live.counter.observe(200, job.rest_s + block.seconds)
            if len(jobs) > 1:
                live.breaker.answered(block.seconds)
            live.metrics.confident(block.outputs)
            rows += len(job.rows)
            agreeing += count_agreeing(live.manifest, [record.output for record in job.records], block.outputs)
            records += _scored(job, block)
        live.metrics.predictions.inc(rows)
        self._metrics_of(live).compared(live.manifest.version, rows, agreeing)
        await self._write(jobs, records)

    async def _write(self, jobs: list[ShadowJob], records: list[PredictionRecord]) -> None:
        try:
            await self._append(records)
        except LogError as error:
            logger.error("What was scored in shadow is not on record: %s", error)
            for job in jobs:
                self._drop(job, "not logged")

    def _drop(self, job: ShadowJob, why: str) -> None:
        self._metrics_of(job.challenger).dropped(why, len(job.rows))

    def _metrics_of(self, live: LiveModel) -> ShadowMetrics:
        model = live.manifest.model
        if model not in self._metrics:
            self._metrics[model] = ShadowMetrics(model)
        return self._metrics[model]


def _rest_ms(job: ShadowJob) -> float:
    """The request without its scoring, by the clock of the answer's record: the records of both are compared."""
    return job.records[0].latency_ms - job.scoring_s * 1e3


def _shares(jobs: list[ShadowJob], block: Block) -> list[Block]:
    """A block for each job; the time that all took is shared out by rows."""
    shares, start, seconds = [], 0, block.seconds / len(block.rows)
    for job in jobs:
        end = start + len(job.rows)
        part = slice(start, end)
        shares.append(
            Block(block.live, block.rows[part], block.used[part], block.outputs[part], seconds * (end - start))
        )
        start = end
    return shares


def _scored(job: ShadowJob, block: Block) -> list[PredictionRecord]:
    live, latency_ms = block.live, _rest_ms(job) + block.seconds * 1e3
    records = []
    for record, row, used, output in zip(job.records, block.rows, block.used, block.outputs, strict=True):
        imputed, out_of_domain = live.domain.flags(used)
        records.append(
            msgspec.structs.replace(
                record,
                version=live.manifest.version,
                bundle=live.bundle,
                role=SHADOW,
                error=None,
                features=row,
                imputed=imputed,
                out_of_domain=out_of_domain,
                output=tuple(output),
                latency_ms=latency_ms,
            )
        )
    return records


def _failed(job: ShadowJob, why: str) -> list[PredictionRecord]:
    live = job.challenger
    return [
        msgspec.structs.replace(
            record,
            version=live.manifest.version,
            bundle=live.bundle,
            role=SHADOW,
            features=(),
            imputed=(),
            out_of_domain=(),
            output=(),
            latency_ms=_rest_ms(job),
            status=500,
            error=why[:500],
        )
        for record in job.records
    ]
