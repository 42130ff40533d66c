"""Tell people: what waits in the outbox is sent through Apprise to the receivers that the model's declaration names.

A receiver that is down delays nothing and nobody: it is tried again later, a bounded number of times. Addresses may hold passwords
and tokens, so that they are looked up when they are needed, and neither written down nor logged.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import apprise
import msgspec

from mlops_assets.core.ledger import Severity
from mlops_assets.core.notices import Notice
from mlops_assets.operations.models import declared_models
from mlops_assets.operations.stores import Stores
from mlops_assets.stores.outbox import Delivery, Posted

MAX_ATTEMPTS = 10
FIRST_RETRY = timedelta(seconds=30)
LONGEST_RETRY = timedelta(hours=1)
LEASE = timedelta(minutes=5)


class Sent(msgspec.Struct, frozen=True):
    """What a round did: deliveries that arrived, that are to be tried again, and, as sentences, that were given up."""

    arrived: int = 0
    to_retry: int = 0
    given_up: tuple[str, ...] = ()


def declared_receivers() -> dict[str, tuple[str, ...]]:
    """The Apprise URLs that each declared model names under `response.notify`."""
    return {name: spec.response.notify for name, spec in declared_models().items()}


def send_due(
    stores: Stores,
    now: datetime,
    receivers: Mapping[str, Sequence[str]] | None = None,
    *,
    timeout_s: float = 15.0,
    budget_s: float = 30.0,
) -> Sent:
    """Send what is due by the wall clock `now`; what a receiver does not take is tried again later.

    The second attempt follows after 30 seconds, each later one after twice the time, at most an hour; the tenth is the last, after
    some three hours, and then the delivery is given up, which the outbox shows. No receiver gets a notice twice, unless the
    process dies between sending it and writing that down. Several processes may call this at once.

    Parameters
    ----------
    receivers
        Apprise URLs by model; those of the declarations where left out. A notice of a model that has none is marked so.
    timeout_s
        How long one receiver may take for one notice.
    budget_s
        No further notice is begun after this time; the rest stays due.

    Raises
    ------
    LedgerUnavailable
        When the outbox cannot be read or written. Never because of a receiver.
    ValueError
        When a declaration is wrong.
    """
    ends = time.monotonic() + budget_s
    addresses = declared_receivers() if receivers is None else receivers
    arrived, to_retry, given_up = 0, 0, []
    while time.monotonic() < ends and (claimed := stores.outbox.claim(now, now + LEASE, limit=1)):
        [posted] = claimed
        tried = _deliver(posted, addresses.get(posted.notice.model, ()), now, timeout_s)
        settled = {one.receiver: one for one in posted.deliveries if one.state != "waiting"} | tried
        stores.outbox.settle(posted.notice.key, settled, now)
        new = [one for one in tried.values() if one not in posted.deliveries]
        arrived += sum(one.state == "sent" for one in new)
        to_retry += sum(one.state == "waiting" for one in new)
        given_up += [
            f"{posted.notice.title!r} to {one.receiver}: {one.error}" for one in new if one.state == "given up"
        ]
    return Sent(arrived, to_retry, tuple(given_up))


def _deliver(posted: Posted, urls: Sequence[str], now: datetime, timeout_s: float) -> dict[str, Delivery]:
    """How the notice fares at each receiver that is declared now, by name."""
    known = {one.receiver: one for one in posted.deliveries}
    fares: dict[str, Delivery] = {}
    for position, url in enumerate(urls, 1):
        name = receiver_name(position, url)
        before = known.get(name)
        if before is not None and (before.state != "waiting" or before.next_at > now):
            fares[name] = before
            continue
        attempts = 1 + (0 if before is None else before.attempts)
        failure = _send(posted.notice, url, timeout_s)
        if failure is None:
            fares[name] = Delivery(name, "sent", attempts, now, now)
        elif failure.final or attempts >= MAX_ATTEMPTS:
            fares[name] = Delivery(name, "given up", attempts, now, now, failure.why)
        else:
            wait = min(FIRST_RETRY * 2 ** (attempts - 1), LONGEST_RETRY)
            fares[name] = Delivery(name, "waiting", attempts, now, now + wait, failure.why)
    return fares


def receiver_name(position: int, url: str) -> str:
    """What a receiver is called wherever it is written down: its place in `response.notify`, from 1, and its kind."""
    scheme = url.partition("://")[0].lower()
    return f"receiver {position} ({scheme if re.fullmatch('[a-z0-9]{1,20}', scheme) else 'of no known kind'})"


class _Failure(msgspec.Struct, frozen=True):
    why: str
    final: bool = False


_KINDS: dict[Severity, apprise.NotifyType] = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}
_STATUS = re.compile(r"\berror=(\d{3})\b")


def _send(notice: Notice, url: str, timeout_s: float) -> _Failure | None:
    with _unheard():
        sender = apprise.Apprise()
        if not sender.add(url):
            return _Failure("not an address that Apprise knows: see response.notify in the declaration", final=True)
        result = sender.notify(
            body=notice.body,
            title=notice.title,
            notify_type=_KINDS[notice.severity],
            body_format=apprise.NotifyFormat.TEXT,
            timeout=timeout_s,
        )
    if result:
        return None
    if result.status is apprise.AppriseResultStatus.TIMEOUT:
        return _Failure(f"no answer within {timeout_s:g} s")
    # Of what Apprise tells of a failure only the status is taken over: its sentences name hosts and parts of addresses.
    status = next((found[1] for line in result.logs() if (found := _STATUS.search(line.message))), None)
    return _Failure("not reached, or not accepted" if status is None else f"answered with status {status}")


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep Apprise, and the HTTP client below it, from telling the program's logs of addresses."""
    _be_silent(logging.getLogger("apprise"))  # and remain so: what was not in time may still tell of it later
    client = logging.getLogger("urllib3.connectionpool")
    heard = client.propagate
    _be_silent(client)
    try:
        yield
    finally:
        client.propagate = heard


def _be_silent(logger: logging.Logger) -> None:
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # else Python writes to stderr what no handler takes
