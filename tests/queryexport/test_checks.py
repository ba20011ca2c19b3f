"""An installation that cannot work says so before its first run."""

from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.core.checks import run_checks
from pytest_django import Settings

from queryexport.checks import encryption_keys, export_root

KEY = Fernet.generate_key().decode()


@pytest.mark.parametrize("keys", [[KEY], [KEY, Fernet.generate_key().decode()]])
def test_good_keys_are_fine(settings: Settings, keys: list[str]) -> None:
    settings.FIELD_ENCRYPTION_KEYS = keys
    assert encryption_keys() == []


@pytest.mark.parametrize("keys", [[], [""], ["short"], ["ü" * 44], [KEY, "short"], ["A" * 43]])
def test_bad_keys_are_an_error_with_a_hint(settings: Settings, keys: list[str]) -> None:
    settings.FIELD_ENCRYPTION_KEYS = keys
    (error,) = encryption_keys()
    assert error.id == "queryexport.E001"
    assert "Fernet" in error.hint


def test_an_error_does_not_show_the_key(settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = [KEY[:-3]]
    (error,) = encryption_keys()
    assert KEY[:-3] not in f"{error}"


@pytest.mark.parametrize("name", ["", "a", "a/b/c"])
def test_a_folder_that_exists_or_can_be_made_is_fine(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    settings.EXPORT_ROOT = tmp_path / name
    assert export_root() == []


def test_a_check_makes_nothing(settings: Settings, tmp_path: Path) -> None:
    settings.EXPORT_ROOT = tmp_path / "exports"
    export_root()
    assert not settings.EXPORT_ROOT.exists()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_an_error(settings: Settings, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    settings.EXPORT_ROOT = tmp_path / name
    (error,) = export_root()
    assert error.id == "queryexport.E002"
    assert str(tmp_path / name) in error.msg


def test_the_checks_are_registered(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings.FIELD_ENCRYPTION_KEYS, settings.EXPORT_ROOT = [], tmp_path / "file"
    assert {"queryexport.E001", "queryexport.E002"} <= {error.id for error in run_checks()}
