"""The system checks of this app."""

from pathlib import Path

from pytest_django import Settings

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
