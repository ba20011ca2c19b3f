"""The forms of the Kafka sink; secrets can be written and not read."""

from django import forms

from kafka_sink.models import KafkaConnection
from kafka_sink.probe.reading import MOST_MESSAGES
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


class ConsumeForm(forms.Form):
    """What the quick consumer is to read."""

    last = forms.IntegerField(
        label="Messages",
        min_value=1,
        max_value=MOST_MESSAGES,
        initial=10,
        help_text="How many over all partitions, for example 10.",
    )
    start = forms.ChoiceField(
        label="From",
        choices=[("latest", "the newest"), ("earliest", "the oldest")],
        help_text="Which end of the topic, for example the newest.",
    )
