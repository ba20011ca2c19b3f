"""The admin pages of the Kafka sink."""

from kafka_sink.admin.connections import KafkaConnectionAdmin
from kafka_sink.admin.deliveries import DeliveryAdmin
from kafka_sink.admin.tokens import ApiTokenAdmin

__all__ = ["ApiTokenAdmin", "DeliveryAdmin", "KafkaConnectionAdmin"]
