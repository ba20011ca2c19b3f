"""Which topics a cluster has, and how far each of their partitions goes."""

from dataclasses import dataclass
from time import monotonic

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.admin._metadata import PartitionMetadata, TopicMetadata

from kafka_sink.config import KafkaSettings
from kafka_sink.errors import UnknownTopic
from kafka_sink.probe.client import Looker
from queryexport.errors import DeliveryError

LIMIT_SEC = 8.0


@dataclass(frozen=True)
class PartitionInfo:
    """One partition: broker ids of its copies, and its offsets.

    `first_offset` is the oldest message still kept, `end_offset` that of the next one to come.
    """

    number: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    first_offset: int
    end_offset: int

    @property
    def messages(self) -> int:
        """At most that many: transaction marks and compacted messages leave gaps."""
        return self.end_offset - self.first_offset


@dataclass(frozen=True)
class TopicInfo:
    name: str
    partitions: tuple[PartitionInfo, ...]

    @property
    def messages(self) -> int:
        return sum(partition.messages for partition in self.partitions)


def topics(settings: KafkaSettings, *, limit_sec: float = LIMIT_SEC) -> dict[str, int]:
    """The number of partitions by name of topic, without Kafka's internal topics, sorted."""
    found = Looker(settings).metadata(monotonic() + limit_sec).topics
    return {
        name: len(found[name].partitions) for name in sorted(found) if not name.startswith("__")
    }


def topic_info(settings: KafkaSettings, topic: str, *, limit_sec: float = LIMIT_SEC) -> TopicInfo:
    """The partitions of a topic. Raises `UnknownTopic`, or `DeliveryError` when none answers."""
    deadline = monotonic() + limit_sec
    looker = Looker(settings)
    # All topics are listed, because asking for one by name can create it.
    found = looker.metadata(deadline).topics.get(topic)
    if found is None or not found.partitions:
        raise UnknownTopic(
            f"The topic {topic} does not exist on {settings}, or its user may not see it. "
            "Check the name, or create the topic."
        )
    first = _offsets(looker, found, OffsetSpec.earliest(), deadline)  # type: ignore[no-untyped-call]
    end = _offsets(looker, found, OffsetSpec.latest(), deadline)  # type: ignore[no-untyped-call]
    partitions = (
        _partition(each, first[number], end[number])
        for number, each in sorted(found.partitions.items())
    )
    return TopicInfo(topic, tuple(partitions))


def _partition(metadata: PartitionMetadata, first_offset: int, end_offset: int) -> PartitionInfo:
    return PartitionInfo(
        metadata.id,
        leader=metadata.leader,
        replicas=tuple(metadata.replicas),
        in_sync=tuple(metadata.isrs),
        first_offset=first_offset,
        end_offset=end_offset,
    )


def _offsets(
    looker: Looker, topic: TopicMetadata, which: OffsetSpec, deadline: float
) -> dict[int, int]:
    wanted = {TopicPartition(str(topic.topic), number): which for number in topic.partitions}
    left = max(0.1, deadline - monotonic())
    try:
        answers = looker.client.list_offsets(wanted, request_timeout=left)
        return {place.partition: future.result(left).offset for place, future in answers.items()}
    except (KafkaException, TimeoutError) as error:
        cause = looker.words(error.args[0]) if isinstance(error, KafkaException) else "no answer"
        raise DeliveryError(
            f"The offsets of the topic {topic.topic} cannot be read: {cause}. Check that all its "
            "partitions have a leader and that the user may describe it.",
            retryable=True,
        ) from error
