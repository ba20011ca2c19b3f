"""What runs when, and what became of every run."""

from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.item import SchedulingItem, SharingMode, WatermarkKind
from scheduling.models.item_kafka import KafkaGuarantee
from scheduling.models.item_policy import CatchUp, Overlap, WorkQueue
from scheduling.models.undelivered import UndeliveredFile, UndeliveredMessage
from scheduling.models.watermark import WatermarkChange

__all__ = [
    "CatchUp",
    "KafkaGuarantee",
    "Overlap",
    "SchedulingHistoryItem",
    "SchedulingItem",
    "SharingMode",
    "UndeliveredFile",
    "UndeliveredMessage",
    "WatermarkChange",
    "WatermarkKind",
    "WorkQueue",
]
