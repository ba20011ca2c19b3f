"""Names of files and mails in the items' admin as they would be, also before anything is saved."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from queryexport.encryption import Secret
from queryexport.forms import WeekdaysField
from scheduling import examples, same_files
from scheduling.examples import Example
from scheduling.models import Output, SchedulingItem
from scheduling.same_files import Itself

NAME = "scheduling_schedulingitem_file_names"
SCHEDULE_FIELDS = (
    "scheduling_mode", "hour", "minute", "cron_expression", "timezone", "end_date", "days_of_week",
)  # fmt: skip
OUTPUT_FIELDS = (
    "sharing_mode", "output_format", "output_filename_template", "output_date_format",
    "output_offset_days", "output_compress_gz", "output_dir", "output_url", "output_on_existing",
    "email_subject", "email_body",
)  # fmt: skip
FIELDS = ("name", "query", "connection", *SCHEDULE_FIELDS, *OUTPUT_FIELDS)
LATER = "Shown as soon as a query is chosen."


class NamesForm(forms.Form):
    """The fields that names are made of. Of the password only whether there is one."""

    days_of_week = WeekdaysField(required=False)
    zipped = forms.BooleanField(required=False)
    item = forms.IntegerField(required=False)
    destination = forms.IntegerField(required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields = forms.fields_for_model(SchedulingItem, fields=FIELDS) | self.fields
        for field in ("name", "connection", "email_subject", *SCHEDULE_FIELDS):
            self.fields[field].required = False

    def output(self) -> SchedulingItem:
        """The item with what is valid of the form; it is not to be saved."""
        given = {name: value for name, value in self.cleaned_data.items() if name in FIELDS}
        kept = {name: value for name, value in given.items() if value not in (None, "")}
        texts = {"output_dir", "output_url", "email_subject", "email_body"}
        item = SchedulingItem(
            pk=self.cleaned_data.get("item"),
            **{**kept, **{name: given.get(name, "") for name in texts}},
        )
        if self.cleaned_data.get("zipped"):
            item.output_zip_password = Secret("…")
        return item


class FileNamesPage(admin.ModelAdmin):
    """The part of the items' admin that shows names, anew while somebody types."""

    @property
    def media(self) -> forms.Media:
        names = ("file_names", "relevant_fields")
        scripts: list[Any] = [forms.Script(f"queryexport/{name}.js", defer=True) for name in names]
        return super().media + forms.Media(js=scripts)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.names_of_form)
        return [path("file-names/", view, name=NAME), *super().get_urls()]

    @method_decorator([require_safe, never_cache])
    def names_of_form(self, request: HttpRequest) -> JsonResponse:
        """The fields are in the query string; the answer has `lines`, `errors` and `warnings`, for
        the file and for the mail.
        """
        if not (self.has_change_permission(request) or self.has_add_permission(request)):
            raise PermissionDenied
        form = NamesForm(request.GET)
        form.is_valid()
        said = [
            f"{form[name].label}: {message}"
            for name in OUTPUT_FIELDS
            for message in form.errors.get(name, ())
        ]
        if "query" in form.errors or said:
            return _answer(Example(lines=[] if said else [LATER], errors=said), Example(), [])
        output, now = form.output(), timezone.now()
        data = form.cleaned_data
        further = data.get("destination") or 0
        me = Itself(item=0 if further else data.get("item") or 0, destination=further)
        return _answer(*_examples(output), same_files.warnings(output, now, me=me))

    @admin.display(description="for example")
    def file_example(self, item: SchedulingItem) -> str:
        return file_example(item)

    @admin.display(description="for example")
    def mail_example(self, item: SchedulingItem) -> str:
        return mail_example(item)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        item: SchedulingItem = form.instance
        said: set[str] = set()
        for output in (item, *item.destinations.filter(enabled=True)):
            # A pair within the item is said once.
            for text in same_files.warnings(output, timezone.now(), me=same_files.itself(output)):
                if output is item or not text.startswith("The item itself"):
                    said.add(text)
        for text in sorted(said):
            self.message_user(request, text, messages.WARNING)


def file_example(output: Output) -> str:
    """As it is stored, until the form is changed."""
    if not (output.pk and output.source.query_id):
        return _shown("file", Example(lines=[LATER]), [])
    now = timezone.now()
    found = same_files.warnings(output, now, me=same_files.itself(output))
    return _shown("file", examples.of_file(output, examples.next_slot(output, now)), found)


def mail_example(output: Output) -> str:
    if not (output.pk and output.source.query_id):
        return _shown("mail", Example(lines=[LATER]), [])
    slot = examples.next_slot(output, timezone.now())
    return _shown("mail", examples.of_mail(output, slot), [])


def _examples(output: Output) -> tuple[Example, Example]:
    slot = examples.next_slot(output, timezone.now())
    return examples.of_file(output, slot), examples.of_mail(output, slot)


def _answer(file: Example, mail: Example, warnings: list[str]) -> JsonResponse:
    return JsonResponse(
        {
            "file": {"lines": file.lines, "errors": file.errors, "warnings": warnings},
            "mail": {"lines": mail.lines, "errors": mail.errors, "warnings": []},
        }
    )


def _shown(part: str, example: Example, warnings: list[str]) -> SafeString:
    kinds = (("", example.lines), ("error", example.errors), ("warning", warnings))
    lines = format_html_join(
        "",
        '<div class="{}">{}</div>',
        ((f"example-{kind or 'line'}", text) for kind, texts in kinds for text in texts),
    )
    return format_html(
        '<div class="name-example" data-part="{}" data-url="{}" aria-live="polite">{}</div>',
        part,
        reverse(f"admin:{NAME}"),
        lines,
    )
