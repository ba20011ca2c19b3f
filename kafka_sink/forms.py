"""The form of a Kafka connection; its secrets can be written and not read."""

from django import forms

from kafka_sink.models import KafkaConnection
from queryexport.forms import SecretModelForm


class KafkaConnectionForm(SecretModelForm):
    class Meta:
        model = KafkaConnection
        fields = "__all__"
        widgets = {
            "bootstrap_servers": forms.TextInput({"class": "vLargeTextField"}),
            "ca_certificate": forms.Textarea({"class": "vLargeTextField", "rows": 4}),
            "client_certificate": forms.Textarea({"class": "vLargeTextField", "rows": 4}),
        }
