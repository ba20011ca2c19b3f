"""Fixtures that every test may use; the real services come from `tests.services.plugin`."""

from pathlib import Path

import pytest
from django.db import connection
from hypothesis import settings as hypothesis_settings
from pytest_django import Settings

# No example is a fault because the machine was busy.
hypothesis_settings.register_profile("query-export", deadline=None)
hypothesis_settings.load_profile("query-export")

pytest_plugins = ["tests.services.plugin"]


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file, as installations have it: in memory, threads do not wait for each other's locks."""
    if connection.vendor == "sqlite":
        path = tmp_path_factory.mktemp("database") / "tests.sqlite3"
        connection.settings_dict["TEST"]["NAME"] = str(path)


@pytest.fixture
def export_root(tmp_path: Path, settings: Settings) -> Path:
    """An empty export folder of this test's own."""
    settings.EXPORT_ROOT = tmp_path / "exports"
    return settings.EXPORT_ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, so that a plain mistake shows at once."""
    items.sort(
        key=lambda item: (
            item.get_closest_marker("slow") is not None,
            item.get_closest_marker("services") is not None,
        )
    )
