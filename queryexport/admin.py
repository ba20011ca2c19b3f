"""Admin pages of connections and queries."""

from django.contrib import admin

from queryexport.forms import BlackoutWindowForm, DatabaseConnectionForm, QueryForm
from queryexport.models import BlackoutWindow, DatabaseConnection, Query


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
