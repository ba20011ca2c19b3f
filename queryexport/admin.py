"""Admin pages of connections, queries, and workbooks that runs fill."""

from io import BytesIO
from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.views.decorators.http import require_safe

from queryexport.formats.template import TemplateWorkbook
from queryexport.forms import (
    BlackoutWindowForm,
    DatabaseConnectionForm,
    QueryForm,
    WorkbookTemplateForm,
)
from queryexport.models import BlackoutWindow, DatabaseConnection, Query, WorkbookTemplate


class BlackoutWindowInline(admin.TabularInline):
    model = BlackoutWindow
    form = BlackoutWindowForm
    extra = 0
    verbose_name_plural = "black-out windows: no run begins in them, and those that are due wait"


@admin.register(DatabaseConnection)
class DatabaseConnectionAdmin(admin.ModelAdmin):
    form = DatabaseConnectionForm
    inlines = (BlackoutWindowInline,)
    list_display = ("name", "environment", "engine", "host", "database", "username")
    list_filter = ("engine", "environment")
    search_fields = ("name", "environment", "host", "database", "description")
    fieldsets = (
        (None, {"fields": ("name", "environment", "description")}),
        ("Where", {"fields": ("engine", "host", "port", "database", "options")}),
        ("Who", {"fields": ("username", "password")}),
        ("Limits", {"fields": ("connect_timeout_sec", "statement_timeout_sec", "most_runs")}),
    )


@admin.register(Query)
class QueryAdmin(admin.ModelAdmin):
    form = QueryForm
    list_display = ("name", "default_connection", "description")
    list_filter = ("default_connection",)
    list_select_related = ("default_connection",)
    search_fields = ("name", "description", "sql")
    autocomplete_fields = ("default_connection",)
    fields = ("name", "description", "default_connection", "sql", "parameters")
    readonly_fields = ("parameters",)

    @admin.display(description="parameters")
    def parameters(self, query: Query) -> str:
        return ", ".join(f":{name}" for name in query.parameters) or "none"


@admin.register(WorkbookTemplate)
class WorkbookTemplateAdmin(admin.ModelAdmin):
    form = WorkbookTemplateForm
    list_display = ("name", "file_name", "start_name", "with_header", "uploaded_at")
    search_fields = ("name", "file_name")
    fields: ClassVar[tuple[str, ...]] = (
        "name", "upload", "stored", "start_name", "with_header", "sha256", "uploaded_at",
    )  # fmt: skip
    readonly_fields: ClassVar[tuple[str, ...]] = ("stored", "sha256", "uploaded_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[WorkbookTemplate]:
        rows: QuerySet[WorkbookTemplate] = super().get_queryset(request)
        return rows.defer("content")

    def get_fields(self, request: HttpRequest, obj: WorkbookTemplate | None = None) -> Any:
        fields = super().get_fields(request, obj)
        enters = obj is None or self.has_change_permission(request, obj)
        return fields if enters else [name for name in fields if name != "upload"]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_safe(self.file))
        name = "queryexport_workbooktemplate_file"
        return [path("<int:object_id>/file/", view, name=name), *super().get_urls()]

    @admin.display(description="stored workbook")
    def stored(self, template: WorkbookTemplate) -> str:
        if template.pk is None:
            return "—"
        url = reverse("admin:queryexport_workbooktemplate_file", args=[template.pk])
        return format_html('<a href="{}">{}</a>', url, template.file_name or "template.xlsx")

    def file(self, request: HttpRequest, object_id: int) -> FileResponse:
        """The workbook as it was uploaded, for those who may see the template."""
        template = self.get_object(request, str(object_id))
        if not self.has_view_permission(request, template):
            raise PermissionDenied
        if template is None:
            raise Http404
        response = FileResponse(
            BytesIO(template.content),
            as_attachment=True,
            filename=template.file_name or "template.xlsx",
            content_type=TemplateWorkbook.mime_type,
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
