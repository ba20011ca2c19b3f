"""The forms of a scheduling item and its further destinations; the rules are the models'."""

from typing import Any

from django import forms
from django.utils.html import escape

from kafka_sink.models import KafkaConnection
from queryexport.forms import SecretModelForm, WeekdaysField
from queryexport.models import WorkbookTemplate
from scheduling.models import Destination, SchedulingItem

WIDE = {"class": "vLargeTextField"}
OUTPUT_WIDGETS = {
    **{
        name: forms.TextInput(WIDE)
        for name in (
            "output_filename_template", "output_dir", "output_url", "email_to", "email_cc",
            "email_bcc", "email_subject",
        )
    },
    "email_body": forms.Textarea({**WIDE, "rows": 4}),
    "email_body_html": forms.Textarea({**WIDE, "rows": 4}),
}  # fmt: skip


class OutputForm(SecretModelForm):
    """The part that says where rows go, of an item or of a further destination."""

    kafka_connection = forms.ChoiceField(
        required=False, help_text="The cluster, for example default."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields.get("kafka_connection")
        if isinstance(field, forms.ChoiceField):
            field.choices = self._kafka_connections()
        template = self.fields.get("workbook_template")
        if isinstance(template, forms.ModelChoiceField):
            template.queryset = WorkbookTemplate.objects.defer("content")
        if html := self.fields.get("email_body_html"):
            html.help_text = escape(html.help_text)  # Its example is HTML, and pages render it.

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


class SchedulingItemForm(OutputForm):
    days_of_week = WeekdaysField(
        required=False, help_text="For days and time: the days on which it runs."
    )

    class Meta:
        model = SchedulingItem
        fields = "__all__"
        widgets = {
            **OUTPUT_WIDGETS,
            "cron_expression": forms.TextInput({"placeholder": "0 8 * * 1-5"}),
        }


class DestinationForm(OutputForm):
    """`item` is the item as it is being entered, which may not be saved yet."""

    class Meta:
        model = Destination
        fields = "__all__"
        widgets = OUTPUT_WIDGETS

    def __init__(self, *args: Any, item: SchedulingItem | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if item is not None:
            self.instance.item = item


class ReplayForm(forms.Form):
    """What a person decides when undelivered rows are sent again."""

    include_unknown = forms.BooleanField(
        required=False,
        label="Also those of which nothing is known (may arrive twice)",
        help_text="They may be in the topic already, because their answer never came.",
    )
