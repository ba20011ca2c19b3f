"""What the Kafka sink keeps: connections, the ledger of deliveries, and the API's tokens."""

from kafka_sink.models.connections import KafkaConnection
from kafka_sink.models.deliveries import Delivery
from kafka_sink.models.tokens import ApiToken

__all__ = ["ApiToken", "Delivery", "KafkaConnection"]
