"""Adds deliveries up: totals, by hour and by topic, computed by the database from the ledger."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db.models import Count, F, FloatField, Max, Q, QuerySet, Sum
from django.db.models.functions import Cast, Coalesce, NullIf, TruncHour

from kafka_sink.models import Delivery

COMPLETE = Q(acked=F("handed"))
MEASURED = Q(latency_average_ms__isnull=False)


@dataclass(frozen=True)
class Scope:
    """Which deliveries count: those that started from `since` on, of one connection or topic.

    Empty text stands for all of them.
    """

    since: datetime
    connection: str = ""
    topic: str = ""

    def deliveries(self) -> QuerySet[Delivery]:
        exact = {"connection": self.connection, "topic": self.topic}
        chosen = {name: text for name, text in exact.items() if text}
        # Without the model's ordering, which would take part in every GROUP BY.
        return Delivery.objects.filter(started_at__gte=self.since, **chosen).order_by()


@dataclass(frozen=True)
class Metrics:
    """What the deliveries of a scope add up to.

    `messages_sent` were acknowledged, `messages_failed` refused, and of `messages_unknown` nobody
    knows. `latency_average_ms` is weighted by acknowledged messages, so it is the average over all
    of them. `latency_p90_ms` and `latency_p99_ms` are the highest of any one delivery, because
    percentiles cannot be added up: no delivery was slower than that. `success_rate` is the share
    of acknowledged messages, 0 to 1, None when nothing was sent. `last_success_at` is the start of
    the latest delivery that arrived as a whole, `last_error_at` that of the latest with an error.
    """

    deliveries: int
    messages_sent: int
    messages_failed: int
    messages_unknown: int
    bytes_sent: int
    latency_average_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    success_rate: float | None
    last_success_at: datetime | None
    last_error_at: datetime | None
    last_error: str = ""


@dataclass(frozen=True)
class HourMetrics:
    """One hour that had deliveries; `hour` is its beginning in UTC."""

    hour: datetime
    metrics: Metrics


@dataclass(frozen=True)
class TopicMetrics:
    """One topic that had deliveries."""

    topic: str
    metrics: Metrics


def totals(scope: Scope) -> Metrics:
    """Everything in the scope as one, with the text of its last error."""
    deliveries = scope.deliveries()
    latest = deliveries.exclude(last_error="").order_by("-started_at", "-pk")
    error = latest.values_list("last_error", flat=True).first()
    return Metrics(**deliveries.aggregate(**_aggregates()), last_error=error or "")


def by_hour(scope: Scope) -> Iterator[HourMetrics]:
    """Each hour with deliveries, oldest first; `last_error` stays empty."""
    hours = scope.deliveries().annotate(hour=TruncHour("started_at", tzinfo=UTC)).values("hour")
    for row in hours.annotate(**_aggregates()).order_by("hour"):
        yield HourMetrics(row["hour"], _metrics(row))


def by_topic(scope: Scope) -> Iterator[TopicMetrics]:
    """Each topic with deliveries, by name; `last_error` stays empty."""
    topics = scope.deliveries().values("topic").annotate(**_aggregates())
    for row in topics.order_by("topic"):
        yield TopicMetrics(row["topic"], _metrics(row))


def _metrics(row: Mapping[str, Any]) -> Metrics:
    return Metrics(**{name: row[name] for name in _aggregates()})


def _aggregates() -> dict[str, Any]:
    return {
        "deliveries": Count("pk"),
        "messages_sent": _sum("acked"),
        "messages_failed": _sum("failed"),
        "messages_unknown": _sum("unknown"),
        "bytes_sent": _sum("size_bytes"),
        "latency_average_ms": _weighted_average(),
        "latency_p90_ms": Max("latency_p90_ms"),
        "latency_p99_ms": Max("latency_p99_ms"),
        "success_rate": _share(Sum("acked"), Sum("handed")),
        "last_success_at": Max("started_at", filter=COMPLETE & Q(handed__gt=0)),
        "last_error_at": Max("started_at", filter=~Q(last_error="")),
    }


def _sum(field: str) -> Coalesce:
    return Coalesce(Sum(field), 0)


def _weighted_average() -> Any:
    weighted = Sum(F("latency_average_ms") * F("acked"), output_field=FloatField())
    return weighted / NullIf(Cast(Sum("acked", filter=MEASURED), FloatField()), 0.0)


def _share(part: Any, whole: Any) -> Any:
    return Cast(part, FloatField()) / NullIf(Cast(whole, FloatField()), 0.0)
