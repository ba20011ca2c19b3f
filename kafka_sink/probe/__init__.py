"""Looks at a cluster without writing to it: the connection test, topics, and their messages."""

from kafka_sink.probe.reading import ReadMessage, Sample, consume, read_ranges
from kafka_sink.probe.steps import ProbeResult, Step, probe
from kafka_sink.probe.topics import PartitionInfo, TopicInfo, topic_info, topics

__all__ = [
    "PartitionInfo",
    "ProbeResult",
    "ReadMessage",
    "Sample",
    "Step",
    "TopicInfo",
    "consume",
    "probe",
    "read_ranges",
    "topic_info",
    "topics",
]
