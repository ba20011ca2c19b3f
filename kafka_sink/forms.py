"""The forms of the Kafka sink; secrets can be written and not read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms

from kafka_sink import composing
from kafka_sink.config import TOPIC_PATTERN
from kafka_sink.messages import Headers, Message
from kafka_sink.models import KafkaConnection
from kafka_sink.probe.reading import MOST_MESSAGES
from queryexport.forms import SecretModelForm

TEXT = {"class": "vLargeTextField sql", "spellcheck": "false"}


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


class PublishForm(forms.Form):
    """One message, or several as JSON Lines; once valid, `messages` are what is to be sent."""

    messages: list[Message]
    required_css_class = "required"

    topic = forms.RegexField(
        TOPIC_PATTERN,
        widget=forms.TextInput({"class": "vTextField"}),
        error_messages={"invalid": "Enter letters, digits, dots, dashes and underscores only."},
        help_text="An existing topic, for example shipments.events.",
    )
    key = forms.CharField(
        required=False,
        strip=False,
        widget=forms.TextInput({"class": "vTextField"}),
        help_text="For example ABC123456. Empty: a message without a key.",
    )
    value = forms.CharField(
        required=False,
        strip=False,
        widget=forms.Textarea({**TEXT, "rows": 6}),
        help_text='Sent as it is, for example {"stato": "CONSEGNATO"}. What looks like JSON has to '
        "be JSON.",
    )
    as_text = forms.BooleanField(
        label="Plain text",
        required=False,
        help_text="Do not look for JSON in the value, for example in [WARN] disk full.",
    )
    lines = forms.CharField(
        label="JSON Lines",
        required=False,
        strip=False,
        widget=forms.Textarea({**TEXT, "rows": 6}),
        help_text="Instead of one message: a message on each line, for example "
        '{"key": "ABC123456", "value": {"stato": "CONSEGNATO"}}.',
    )
    headers = forms.CharField(
        required=False,
        widget=forms.Textarea({**TEXT, "rows": 2}),
        help_text='Optional: a JSON object of texts, for every message, for example {"source": '
        '"admin"}. export_id and row are added.',
    )

    def clean_headers(self) -> Headers:
        try:
            return composing.headers(self.cleaned_data["headers"])
        except composing.Wrong as error:
            raise forms.ValidationError(error.sentences) from error

    def clean(self) -> dict[str, Any]:
        if not self.errors:
            self._compose()
        return self.cleaned_data

    def _compose(self) -> None:
        # Browsers send line breaks as CR and LF, whatever was typed.
        key, value, lines = (
            self.cleaned_data[name].replace("\r\n", "\n") for name in ("key", "value", "lines")
        )
        headers, plain = self.cleaned_data["headers"], self.cleaned_data["as_text"]
        if bool(value) == bool(lines.strip()):
            self.add_error("value", "Enter either a value or JSON Lines.")
        elif value:
            with self._wrong_at("value"):
                self.messages = [composing.single(key, value, headers, plain=plain)]
        elif key:
            self.add_error("key", "Leave this empty: each of the JSON Lines has its own key.")
        else:
            with self._wrong_at("lines"):
                self.messages = composing.several(lines, headers)

    @contextmanager
    def _wrong_at(self, field: str) -> Iterator[None]:
        try:
            yield
        except composing.Wrong as error:
            self.add_error(field, error.sentences)
