"""Writes the ledger: one row for each delivery, from what its delivery reports added up to."""

from datetime import datetime

from django.contrib.auth.models import User

from kafka_sink.models import Delivery
from kafka_sink.reports import Ledger


def record(
    ledger: Ledger,
    *,
    connection: str,
    topic: str,
    source: str,
    export_id: str,
    started_at: datetime,
    duration_sec: float,
    error: str = "",
    user: User | None = None,
    skipped: int = 0,
) -> Delivery:
    """The row of a delivery that is over: no message may wait for its report any more.

    `source` is "run" or "api"; `error` is what ended the delivery, else the reason of the first
    message that did not arrive is kept. `skipped` rows were never handed over. Raises
    `IntegrityError` when the ledger's counts do not account for every message handed over.
    """
    return Delivery.objects.create(
        connection=connection,
        topic=topic,
        source=source,
        export_id=export_id,
        user=user,
        started_at=started_at,
        duration_sec=duration_sec,
        handed=ledger.handed,
        acked=ledger.acked,
        failed=ledger.failed,
        unknown=ledger.unknown,
        skipped=skipped,
        size_bytes=ledger.size_bytes,
        offsets={str(number): list(ends) for number, ends in sorted(ledger.offsets.items())},
        last_error=error or _first_reason(ledger),
        **_latency(ledger),
    )


def _first_reason(ledger: Ledger) -> str:
    return next((row.reason for row in ledger.undelivered), "")


def _latency(ledger: Ledger) -> dict[str, float | None]:
    latencies = ledger.latencies
    return {
        "latency_average_ms": latencies.average_ms(),
        "latency_p90_ms": latencies.percentile_ms(90),
        "latency_p99_ms": latencies.percentile_ms(99),
    }
