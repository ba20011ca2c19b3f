"""What runs when, and what became of every run."""

from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.item import (
    WEEKDAYS,
    KafkaGuarantee,
    SchedulingItem,
    SharingMode,
)

__all__ = [
    "WEEKDAYS",
    "KafkaGuarantee",
    "SchedulingHistoryItem",
    "SchedulingItem",
    "SharingMode",
]
