"""Secrets: encrypted in the database, masked wherever they are shown, resolved only when used."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import models

from queryexport.errors import ConfigurationError

if TYPE_CHECKING:
    TextField = models.TextField[Any, Any]
else:
    TextField = models.TextField  # At run time it takes no type parameters.

MASK = "••••••"
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Secret:
    """A secret that shows itself as dots; only `reveal()` gives the real text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return MASK if self._text else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def stored(self) -> str:
        """The text as it was entered, with `${ENV_VAR}` references left as they are."""
        return self._text

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """The secret with every `${ENV_VAR}` replaced by that environment variable.

        Raises `ConfigurationError` when a variable is not set.
        """
        variables = os.environ if environ is None else environ

        def value(match: re.Match[str]) -> str:
            if (text := variables.get(match[1])) is None:
                raise ConfigurationError(
                    f"The environment variable {match[1]} is not set, but a secret refers to it. "
                    "Set it for the worker, or replace the reference in the connection."
                )
            return text

        return VARIABLE.sub(value, self._text)


@lru_cache
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            "FIELD_ENCRYPTION_KEYS must hold one or more Fernet keys, newest first. "
            "`make .env` writes one."
        ) from error


def encrypt(text: str) -> str:
    return _fernet(tuple(settings.FIELD_ENCRYPTION_KEYS)).encrypt(text.encode()).decode()


def decrypt(token: str) -> str:
    """Raises `ConfigurationError` when none of the keys fits, never returns the ciphertext."""
    try:
        return _fernet(tuple(settings.FIELD_ENCRYPTION_KEYS)).decrypt(token).decode()
    except (InvalidToken, ValueError) as error:
        raise ConfigurationError(
            "A stored secret cannot be decrypted: none of FIELD_ENCRYPTION_KEYS fits. "
            "Add the key that it was saved with, or enter the secret again."
        ) from error


def rotate(token: str) -> str:
    """The same secret encrypted with the first key; as it is when no key fits."""
    try:
        return _fernet(tuple(settings.FIELD_ENCRYPTION_KEYS)).rotate(token).decode()
    except (InvalidToken, ValueError):
        return token


class Undecrypted(Secret):
    """A secret still encrypted: a wrong key breaks its use and not the page that lists it."""

    __slots__ = ()

    def stored(self) -> str:
        return decrypt(self._text)

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        return Secret(self.stored()).reveal(environ)


class EncryptedTextField(TextField):
    """Text encrypted with the first of `FIELD_ENCRYPTION_KEYS`; read back as a `Secret`.

    It cannot be searched, so no list filter or URL can be used to guess it.
    """

    description = "Encrypted text"

    def get_prep_value(self, value: Any) -> str:
        match value:
            case Undecrypted():
                return rotate(value._text)
            case Secret():
                return encrypt(value.stored()) if value else ""
            case _:
                return encrypt(str(value)) if value else ""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Secret:
        return Undecrypted(value) if value else Secret("")

    def to_python(self, value: Any) -> Secret:
        return value if isinstance(value, Secret) else Secret(value or "")

    def value_to_string(self, obj: models.Model) -> str:
        return ""  # dumpdata holds no secret, in no form.

    def get_lookup(self, lookup_name: str) -> Any:
        raise FieldError(f"“{self.name}” is encrypted and cannot be searched ({lookup_name}).")

    def get_transform(self, lookup_name: str) -> Any:
        raise FieldError(f"“{self.name}” is encrypted and cannot be searched ({lookup_name}).")
