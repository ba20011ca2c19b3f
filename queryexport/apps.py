"""The lowest app: what is exported, and how."""

from django.apps import AppConfig


class QueryExportConfig(AppConfig):
    name = "queryexport"
    verbose_name = "Queries"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from queryexport import checks  # noqa: F401  Registers the system checks.
