"""The admin page of workbook templates, as far as it concerns the items that fill them."""

from collections.abc import Iterator

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html_join

from queryexport.admin import WorkbookTemplateAdmin
from queryexport.models import WorkbookTemplate
from scheduling.models import Destination, SchedulingItem

MOST_SHOWN = 100

admin.site.unregister(WorkbookTemplate)


@admin.register(WorkbookTemplate)
class WorkbookTemplateOfItemsAdmin(WorkbookTemplateAdmin):
    """Says which items fill the template, also as one of their further destinations."""

    fields = (*WorkbookTemplateAdmin.fields, "used_by")
    readonly_fields = (*WorkbookTemplateAdmin.readonly_fields, "used_by")

    @admin.display(description="used by")
    def used_by(self, template: WorkbookTemplate) -> str:
        if template.pk is None:
            return "—"
        links = format_html_join("", '<div><a href="{}">{}</a></div>', _users(template))
        return links or "nothing"


def _users(template: WorkbookTemplate) -> Iterator[tuple[str, str]]:
    """The page and the name of each, the first `MOST_SHOWN`."""
    items = SchedulingItem.objects.filter(workbook_template=template).only("name")
    further = Destination.objects.filter(workbook_template=template).select_related("item")
    for item in items[:MOST_SHOWN]:
        yield _page(item), item.name
    for destination in further.only("name", "item__name")[:MOST_SHOWN]:
        yield _page(destination.item), f"{destination.item}, {destination}"


def _page(item: SchedulingItem) -> str:
    return reverse("admin:scheduling_schedulingitem_change", args=[item.pk])
