"""The Kafka sink: where rows go when an item's sharing mode is `kafka`."""

from django.apps import AppConfig


class KafkaSinkConfig(AppConfig):
    name = "kafka_sink"
    verbose_name = "Kafka"
    default_auto_field = "django.db.models.BigAutoField"
