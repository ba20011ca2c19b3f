"""Calls that read the ledger: metrics as totals, by topic, by hour, and of one topic."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from kafka_sink import deliveries
from kafka_sink.api.access import needs
from kafka_sink.api.errors import PROBLEMS
from kafka_sink.deliveries import Scope

router = Router()

Period = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]{0,2}[hd]$",
        description="Hours or days up to now",
        examples=["24h", "7d"],
    ),
]
UNITS: dict[str, Callable[[int], timedelta]] = {
    "h": lambda number: timedelta(hours=number),
    "d": lambda number: timedelta(days=number),
}


class ScopeIn(Schema):
    connection: str = Field("", description="Name of a Kafka connection; all without")
    period: Period = "24h"

    def scope(self, topic: str = "") -> Scope:
        length = UNITS[self.period[-1]](int(self.period[:-1]))
        return Scope(timezone.now() - length, connection=self.connection, topic=topic)


class MetricsOut(Schema):
    """`latency_average_ms` is weighted by messages; p90 and p99 are the worst of any delivery."""

    deliveries: int
    messages_sent: int
    messages_failed: int
    messages_unknown: int
    bytes_sent: int
    latency_average_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    success_rate: float | None = Field(description="Acknowledged share, 0 to 1")
    last_success_at: datetime | None
    last_error_at: datetime | None
    last_error: str


class HourOut(MetricsOut):
    hour: datetime


class TopicOut(MetricsOut):
    topic: str


class SummaryOut(Schema):
    totals: MetricsOut
    topics: list[TopicOut]


class TopicHoursOut(Schema):
    topic: str
    totals: MetricsOut
    hours: list[HourOut]


@router.get("/metrics", response={200: MetricsOut, **PROBLEMS})
@needs("view_delivery")
def metrics(request: HttpRequest, query: Query[ScopeIn]) -> Any:
    """What all deliveries of the period add up to."""
    return asdict(deliveries.totals(query.scope()))


@router.get("/metrics/summary", response={200: SummaryOut, **PROBLEMS})
@needs("view_delivery")
def summary(request: HttpRequest, query: Query[ScopeIn]) -> Any:
    """The same, and each topic by itself."""
    scope = query.scope()
    topics = [{"topic": row.topic, **asdict(row.metrics)} for row in deliveries.by_topic(scope)]
    return {"totals": asdict(deliveries.totals(scope)), "topics": topics}


@router.get("/metrics/hourly", response={200: list[HourOut], **PROBLEMS})
@needs("view_delivery")
def hourly(request: HttpRequest, query: Query[ScopeIn]) -> Any:
    """Each hour (UTC) that had deliveries, oldest first."""
    return _hours(query.scope())


@router.get("/metrics/topic/{topic}", response={200: TopicHoursOut, **PROBLEMS})
@needs("view_delivery")
def of_topic(request: HttpRequest, topic: str, query: Query[ScopeIn]) -> Any:
    """One topic, as a whole and by hour."""
    scope = query.scope(topic)
    totals = asdict(deliveries.totals(scope))
    return {"topic": topic, "totals": totals, "hours": _hours(scope)}


def _hours(scope: Scope) -> list[dict[str, Any]]:
    return [{"hour": row.hour, **asdict(row.metrics)} for row in deliveries.by_hour(scope)]
