"""Further destinations in the form of their item, and the fieldsets that both have."""

from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.forms import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.timezone import now

from scheduling.admin.file_names import file_example, mail_example
from scheduling.forms import DestinationForm
from scheduling.models import Destination, SchedulingItem, SharingMode
from scheduling.models.destination import ONE_TOPIC
from scheduling.rules import check, output_rules

OUTPUT_FIELDSETS: Any = (
    (
        "File or attachment",
        {
            "fields": (
                "output_format", "workbook_template", "output_filename_template", "file_example",
                ("output_date_format", "output_offset_days"), "output_compress_gz",
                "output_zip_password", ("csv_delimiter", "csv_encoding"),
                ("csv_decimal_comma", "csv_formula_safe"), "json_decimals_as_numbers",
            )
        },
    ),
    (
        "Where the file goes",
        {
            "fields": (
                "output_dir", "output_url", ("output_on_existing", "output_keep_versions"),
                ("retention_days", "retention_files"),
            )
        },
    ),
    (
        "E-mail",
        {
            "fields": (
                "email_to", "email_cc", "email_bcc", "email_subject", "email_body",
                "mail_example", "email_body_html", ("email_too_large", "email_no_rows"),
            )
        },
    ),
    (
        "Kafka",
        {
            "fields": (
                "kafka_connection", "kafka_topic", "kafka_key_field", "kafka_null_key",
                "kafka_timestamp_field", "kafka_headers", "kafka_decimals_as_numbers",
                "kafka_include_metadata", "kafka_batch_size", "kafka_guarantee",
                "kafka_least_percent", "kafka_allow_duplicates", "kafka_dead_letter_topic",
            )
        },
    ),
)  # fmt: skip


class DestinationFormSet(BaseInlineFormSet):
    """Knows the item as it is being entered, which may not be saved yet."""

    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        return {**super().get_form_kwargs(index), "item": self.instance}

    def clean(self) -> None:
        super().clean()
        if self.instance.pk is None:  # Else the destinations check themselves.
            for form in self._left():
                self._check(form)
        modes = [form.cleaned_data.get("sharing_mode") for form in self._left()]
        if [self.instance.sharing_mode, *modes].count(SharingMode.KAFKA) > 1:
            raise ValidationError(ONE_TOPIC)

    def _left(self) -> list[Any]:
        """The forms that are filled in, valid, and not to be deleted."""
        return [
            form
            for form in self.forms
            if form.is_valid() and form.cleaned_data and not form.cleaned_data.get("DELETE")
        ]

    def _check(self, form: Any) -> None:
        try:
            check(output_rules(form.instance, now()))
        except ValidationError as error:
            form.add_error(None, error)


class DestinationInline(admin.StackedInline):
    """Whoever may change the item may change its destinations."""

    model = Destination
    form = DestinationForm
    formset = DestinationFormSet
    extra = 0
    verbose_name = "further destination"
    verbose_name_plural = "further destinations: they get the same rows, each with its own outcome"
    readonly_fields = ("file_example", "mail_example")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("name", "enabled", "sharing_mode")}),
        *((name, {**options, "classes": ("collapse",)}) for name, options in OUTPUT_FIELDSETS),
    )

    @admin.display(description="for example")
    def file_example(self, destination: Destination) -> str:
        return file_example(destination)

    @admin.display(description="for example")
    def mail_example(self, destination: Destination) -> str:
        return mail_example(destination)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may_view = request.user.has_perm("scheduling.view_schedulingitem")
        return may_view or self.has_change_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("scheduling.change_schedulingitem")

    def has_add_permission(self, request: HttpRequest, obj: SchedulingItem | None = None) -> bool:
        may_add = obj is None and request.user.has_perm("scheduling.add_schedulingitem")
        return may_add or self.has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_change_permission(request, obj)
