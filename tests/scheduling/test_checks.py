"""The system checks of this app."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pytest_django import Settings

from scheduling import checks
from scheduling.checks import own_database
from scheduling.checks import undelivered_root as check


def test_a_folder_that_can_be_made_is_fine(undelivered_root: Path) -> None:
    assert check() == []
    assert not undelivered_root.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "file").write_text("in the way")
    settings.UNDELIVERED_ROOT = tmp_path / "file" / "undelivered"
    [error] = check()
    assert error.id == "scheduling.E001"
    assert str(tmp_path / "file") in (error.hint or "")


def test_a_database_that_the_sweep_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_database() == []
    other = SimpleNamespace(vendor="mysql", display_name="MySQL")
    monkeypatch.setattr(checks, "connection", other)
    [error] = own_database()
    assert error.id == "scheduling.E002"
    assert "DATABASE_URL" in (error.hint or "")
