"""What every store has in common: the file on its way, the names it may get, and the interface."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, Protocol

from queryexport.encryption import MASK
from queryexport.errors import (
    ConfigurationError,
    DeliveryError,
    DeliveryUnknown,
    ExportError,
)
from queryexport.filenames import numbered
from queryexport.sinks.file import OnExisting
from queryexport.stores.address import SECRET_OPTIONS, Address
from queryexport.stores.hand import Connection, Hand

MOST_NUMBERS = 1000
SHORTEST_SECRET = 4  # A shorter one stands in many words by chance.


@dataclass(frozen=True)
class Upload:
    """A file on its way. `last_check` is called right before the step that publishes it."""

    file: IO[bytes]
    size_bytes: int
    name: str
    on_existing: OnExisting
    mime_type: str
    last_check: Callable[[], None]

    def names(self) -> Iterator[str]:
        """The names it may be published under, the first that is free of which it gets."""
        yield self.name
        if self.on_existing is OnExisting.NUMBER:
            yield from (numbered(self.name, number) for number in range(2, MOST_NUMBERS + 1))


class Store(Connection, Protocol):
    """A folder on a server. `connect`, `close` and `try_folder` block, so a `Hand` calls them."""

    def put(self, upload: Upload, hand: Hand) -> str:
        """Publishes the file whole or not at all, and returns the name that it got."""

    def exists(self, name: str) -> bool:
        """Whether a file of that name is seen there. May block."""

    def try_folder(self) -> None:
        """Writes a tiny file into the folder and deletes it."""

    def explained(self, error: Exception) -> ExportError | None:
        """The error in words for the operator, with what to do; None for one that is a bug."""

    @property
    def greeting(self) -> str:
        """What a connection proves, in words for the connection test."""

    @property
    def server(self) -> tuple[str, int]:
        """Host and port."""


def taken(place: str, on_existing: OnExisting = OnExisting.REFUSE) -> DeliveryError:
    """The error when every name that the file may have is taken."""
    if on_existing is OnExisting.NUMBER:
        return DeliveryError(
            f"{place} and its numbered names up to {MOST_NUMBERS} exist. Nothing was delivered. "
            "Move old files away."
        )
    return DeliveryError(
        f"{place} exists already, and the item refuses to overwrite. Nothing was delivered, and "
        "the file there is as it was. Move it away, or let the item replace or number files."
    )


def unsure(
    upload: Upload, place: str, error: Exception, second: Exception | None = None
) -> DeliveryError:
    """The error when the answer to the publishing request was lost, and looking failed, too, or
    found nothing of a request that may still be under way.

    To replace the file once more does no harm; to number or refuse it once more does.
    """
    looked = f"looking failed ({type(second).__name__})" if second else "it was not there yet"
    message = (
        f"The connection was lost while {place} was published ({type(error).__name__}), and then "
        f"{looked}, so it is not known whether the file there is, or will be, the complete new one "
        "or what was there before. Look there"
    )
    if upload.on_existing is OnExisting.REPLACE:
        return DeliveryError(f"{message}, or run the item again.", retryable=True)
    return DeliveryUnknown(f"{message}, and run the item again if it is not.")


def check_rule(on_existing: str) -> None:
    """Raises `ConfigurationError` for what no store can do with a file that exists."""
    if on_existing == OnExisting.KEEP:
        raise ConfigurationError(
            "A server cannot keep older files under other names: that takes several steps, between "
            "which the file would be missing. Choose to replace, refuse or number."
        )


def words(error: Exception, address: Address) -> str:
    """What a driver says, without the secrets that were given to it."""
    text = str(error).rstrip(".") or type(error).__name__
    secrets = [address.password.stored(), *(address.options.get(name) for name in SECRET_OPTIONS)]
    for secret in secrets:
        if secret and len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return text


def driver(module: str, *, extra: str) -> Any:
    """The module, which comes with an extra of this package; `ConfigurationError` without it."""
    try:
        found = import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"Files can't go to {extra} here, because {module.partition('.')[0]} is not installed. "
            "Install it on every worker: pip install -r requirements-extras.txt."
        ) from error
    _quieten(module)
    return found


def _quieten(module: str) -> None:
    """Drivers tell each request as news; what an operator has to know is in the run's error."""
    log = logging.getLogger(module.partition(".")[0])
    if log.level == logging.NOTSET:
        log.setLevel(logging.WARNING)
