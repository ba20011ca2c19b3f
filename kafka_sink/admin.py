"""Admin pages of the Kafka sink."""

from django.contrib import admin

from kafka_sink.forms import KafkaConnectionForm
from kafka_sink.models import KafkaConnection


@admin.register(KafkaConnection)
class KafkaConnectionAdmin(admin.ModelAdmin):
    form = KafkaConnectionForm
    list_display = ("name", "bootstrap_servers", "security_protocol")
    list_filter = ("security_protocol",)
    search_fields = ("name", "bootstrap_servers", "description")
    fieldsets = (
        (None, {"fields": ("name", "description")}),
        ("Where", {"fields": ("bootstrap_servers", "security_protocol")}),
        ("Who", {"fields": ("sasl_mechanism", "username", "password")}),
        ("Certificates", {"fields": ("ca_certificate", "client_certificate", "client_key")}),
        (
            "Batches",
            {"fields": ("compression", "linger_ms", "batch_bytes", "max_request_bytes")},
        ),
        (
            "Guarantees",
            {
                "fields": (
                    "acks",
                    "idempotence",
                    "request_timeout_ms",
                    "retry_backoff_ms",
                    "max_in_flight",
                )
            },
        ),
    )
