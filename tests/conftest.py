"""Fixtures that every test may use; the real services come from `tests.services.plugin`."""

from pathlib import Path

import pytest
from pytest_django import Settings

pytest_plugins = ["tests.services.plugin"]


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
