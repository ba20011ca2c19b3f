"""The admin pages of undelivered rows: what they were, why they failed, and sending them again."""

import json
from base64 import b64encode
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.text import Truncator

from queryexport.read_only import ReadOnlyAdmin
from scheduling import replays
from scheduling.admin.links import run_link
from scheduling.forms import ReplayForm
from scheduling.models import UndeliveredMessage

LONGEST_REASON_IN_LIST = 120
LONGEST_KEY_IN_LIST = 60
LONGEST_VALUE = 100_000


class OutcomeFilter(admin.SimpleListFilter):
    title = parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("failed", "failed"), ("unknown", "unknown")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[UndeliveredMessage]
    ) -> QuerySet[UndeliveredMessage]:
        chosen = self.value()
        return queryset.filter(unknown=chosen == "unknown") if chosen else queryset


class StateFilter(admin.SimpleListFilter):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "can be sent again"), ("taken", "taken by a run")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[UndeliveredMessage]
    ) -> QuerySet[UndeliveredMessage]:
        chosen = self.value()
        return queryset.filter(taken_by__isnull=chosen == "waiting") if chosen else queryset


@admin.register(UndeliveredMessage)
class UndeliveredMessageAdmin(ReadOnlyAdmin):
    """Read-only: rows are kept by runs, and change only by being sent again."""

    list_display = (
        "key_in_list", "topic", "reason_in_list", "attempts", "outcome", "of_run", "taken",
    )  # fmt: skip
    list_filter = (StateFilter, OutcomeFilter, "run__item")
    search_fields = ("reason", "run__item_name", "run__kafka_topic")
    actions = ("send_again",)
    fieldsets = (
        ("Outcome", {"fields": ("outcome", "reason", "attempts", "of_run", "number", "taken")}),
        ("Message", {"fields": ("topic", "key_shown", "value_shown", "headers_shown", "time")}),
    )

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.replay_schedulinghistoryitem")

    def get_queryset(self, request: HttpRequest) -> QuerySet[UndeliveredMessage]:
        return super().get_queryset(request).select_related("run")

    @admin.action(description="Send again", permissions=["replay"])
    def send_again(
        self, request: HttpRequest, queryset: QuerySet[UndeliveredMessage]
    ) -> HttpResponse | None:
        """Asks first, and does it when that page comes back."""
        form = ReplayForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._confirmation(request, queryset, form=form)
        queued, refused = replays.replay_selected(
            queryset, user=request.user, include_unknown=form.cleaned_data["include_unknown"]
        )
        for again in queued:
            words = format_html("{} rows are queued as {}.", again.row_count, run_link(again.pk))
            self.message_user(request, words, messages.SUCCESS)
        for reason in refused:
            self.message_user(request, reason, messages.ERROR)
        return None

    def _confirmation(
        self, request: HttpRequest, queryset: QuerySet[UndeliveredMessage], *, form: ReplayForm
    ) -> HttpResponse:
        free = queryset.filter(taken_by=None)
        across = request.POST.get("select_across") == "1"
        chosen = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)
        context = {
            **self.admin_site.each_context(request),
            "title": "Send undelivered rows again",
            "opts": self.opts,
            "form": form,
            "failed": free.filter(unknown=False).count(),
            "unknown": free.filter(unknown=True).count(),
            "taken": queryset.exclude(taken_by=None).count(),
            "runs": queryset.order_by().values("run").distinct().count(),
            # Django needs one box ticked, also where all rows of the list are meant.
            "chosen": chosen[:1] if across else chosen,
            "across": across,
        }
        template = "admin/scheduling/undeliveredmessage/send_again.html"
        return TemplateResponse(request, template, context)

    @admin.display(description="key")
    def key_in_list(self, message: UndeliveredMessage) -> str:
        key = "null" if message.key is None else as_text(bytes(message.key))
        return Truncator(key).chars(LONGEST_KEY_IN_LIST) or "(empty)"

    @admin.display(description="topic", ordering="run__kafka_topic")
    def topic(self, message: UndeliveredMessage) -> str:
        return message.run.kafka_topic

    @admin.display(description="reason", ordering="reason")
    def reason_in_list(self, message: UndeliveredMessage) -> str:
        return Truncator(message.reason).chars(LONGEST_REASON_IN_LIST)

    @admin.display(description="outcome", ordering="unknown")
    def outcome(self, message: UndeliveredMessage) -> str:
        return "unknown" if message.unknown else "failed"

    @admin.display(description="run", ordering="run")
    def of_run(self, message: UndeliveredMessage) -> str:
        return run_link(message.run_id)

    @admin.display(description="taken by", ordering="taken_by")
    def taken(self, message: UndeliveredMessage) -> str:
        return run_link(message.taken_by_id)

    @admin.display(description="key")
    def key_shown(self, message: UndeliveredMessage) -> str:
        return "null" if message.key is None else as_text(bytes(message.key))

    @admin.display(description="value")
    def value_shown(self, message: UndeliveredMessage) -> str:
        value = bytes(message.value)
        return format_html(
            '<details><summary>{} bytes</summary><pre class="sql">{}</pre></details>',
            f"{len(value):,}",
            Truncator(as_text(value)).chars(LONGEST_VALUE),
        )

    @admin.display(description="headers")
    def headers_shown(self, message: UndeliveredMessage) -> str:
        headers = [[name, as_text(text)] for name, text in message.row.message.headers]
        return format_html('<pre class="sql">{}</pre>', json.dumps(headers, ensure_ascii=False))

    @admin.display(description="time (ms since 1970)")
    def time(self, message: UndeliveredMessage) -> str:
        return str(message.timestamp_ms or "that of sending")


def as_text(content: bytes) -> str:
    """The text, or base64 for bytes that are none."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"base64: {b64encode(content).decode()}"
