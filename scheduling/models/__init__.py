"""What runs when, and what became of every run."""

from scheduling.models.destination import Destination
from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.item import SchedulingItem, WatermarkKind
from scheduling.models.item_file import FileFormat, OnExisting
from scheduling.models.item_kafka import KafkaGuarantee
from scheduling.models.item_mail import NoRows, TooLarge
from scheduling.models.item_policy import CatchUp, Overlap, WorkQueue
from scheduling.models.output import Output, SharingMode
from scheduling.models.run_destination import RunDestination
from scheduling.models.undelivered import UndeliveredFile, UndeliveredMessage
from scheduling.models.watermark import WatermarkChange

__all__ = [
    "CatchUp",
    "Destination",
    "FileFormat",
    "KafkaGuarantee",
    "NoRows",
    "OnExisting",
    "Output",
    "Overlap",
    "RunDestination",
    "SchedulingHistoryItem",
    "SchedulingItem",
    "SharingMode",
    "TooLarge",
    "UndeliveredFile",
    "UndeliveredMessage",
    "WatermarkChange",
    "WatermarkKind",
    "WorkQueue",
]
