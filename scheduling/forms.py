"""The form of a scheduling item; the rules themselves are the model's."""

from typing import Any

from django import forms

from kafka_sink.models import KafkaConnection
from queryexport.forms import WeekdaysField
from scheduling.models import SchedulingItem


class SchedulingItemForm(forms.ModelForm):
    days_of_week = WeekdaysField(
        required=False, help_text="For days and time: the days on which it runs."
    )
    kafka_connection = forms.ChoiceField(
        required=False, help_text="The cluster, for example default."
    )

    class Meta:
        model = SchedulingItem
        fields = "__all__"
        widgets = {
            "cron_expression": forms.TextInput({"placeholder": "0 8 * * 1-5"}),
            "email_to": forms.TextInput({"class": "vLargeTextField"}),
            "email_cc": forms.TextInput({"class": "vLargeTextField"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields.get("kafka_connection")
        if isinstance(field, forms.ChoiceField):
            field.choices = self._kafka_connections()

    def _kafka_connections(self) -> list[tuple[str, str]]:
        names = list(KafkaConnection.objects.values_list("name", flat=True))
        stored = self.instance.kafka_connection
        missing = [] if stored in names else [(stored, f"{stored} (does not exist)")]
        return [*missing, *((name, name) for name in names)]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        names = KafkaConnection.objects.filter(name=data.get("kafka_connection"))
        if data.get("sharing_mode") == "kafka" and not names.exists():
            self.add_error("kafka_connection", "Choose a Kafka connection that exists.")
        return data


class ReplayForm(forms.Form):
    """What a person decides when undelivered rows are sent again."""

    include_unknown = forms.BooleanField(
        required=False,
        label="Also those of which nothing is known (may arrive twice)",
        help_text="They may be in the topic already, because their answer never came.",
    )
