"""The ledger's services: write a delivery down, add deliveries up, check one against the topic."""

from kafka_sink.deliveries.metrics import (
    HourMetrics,
    Metrics,
    Scope,
    TopicMetrics,
    by_hour,
    by_topic,
    totals,
)
from kafka_sink.deliveries.record import record

__all__ = [
    "HourMetrics",
    "Metrics",
    "Scope",
    "TopicMetrics",
    "by_hour",
    "by_topic",
    "record",
    "totals",
]
