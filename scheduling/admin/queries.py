"""The admin page of queries, as far as it concerns the items that run them."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from queryexport.admin import QueryAdmin
from queryexport.models import Query
from scheduling import watermarks
from scheduling.admin.watermark_forms import KEEP, QueryOfItemsForm, watermarked_items

admin.site.unregister(Query)


@admin.register(Query)
class QueryOfItemsAdmin(QueryAdmin):
    """Asks what becomes of the items' watermarks when the SQL is changed."""

    form = QueryOfItemsForm

    def get_fields(self, request: HttpRequest, obj: Query | None = None) -> Any:
        fields = super().get_fields(request, obj)
        asks = obj and self.has_change_permission(request, obj) and watermarked_items(obj)
        return (*fields, "marks") if asks else fields

    def save_model(
        self, request: HttpRequest, obj: Query, form: QueryOfItemsForm, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        if form.decision:
            keep = form.decision == KEEP
            done = "Kept" if keep else "Emptied"
            for item, _ in watermarked_items(obj):
                watermarks.keep_or_empty(
                    item, keep=keep, user=request.user,
                    reason=f"{done} when the SQL of the query {obj} was changed.",
                )  # fmt: skip
