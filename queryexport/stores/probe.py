"""The connection test of a store: resolve, connect, log in, write, up to the first failure."""

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from queryexport.errors import ExportError
from queryexport.stores.address import redacted
from queryexport.stores.hand import CLOSE_SEC, Hand
from queryexport.stores.opening import open_store
from queryexport.stores.upload import Store

STEP_SEC = 9.0


@dataclass(frozen=True)
class Step:
    """One step of the test, and what it found in words for the operator."""

    name: str
    ok: bool
    words: str


def probe(url: str, *, limit_sec: float = STEP_SEC) -> list[Step]:
    """Tests the URL, in at most `limit_sec` for each step. Nothing is left in the folder.

    Raises nothing for a store that does not work: the last step says why, without secrets.
    """
    try:
        store = open_store(url, timeout_sec=limit_sec)
    except ExportError as error:
        return [Step("URL", False, error.message)]
    steps: list[Step] = []
    with Hand(store.sever, lambda: None, limit_sec=limit_sec) as hand:
        for name, look in _looks(store, redacted(url)):
            step = _made(name, look, store, hand)
            steps.append(step)
            if not step.ok:
                break
        _close(store, hand)
    return steps


def _looks(store: Store, place: str) -> list[tuple[str, Callable[[], str]]]:
    def resolve() -> str:
        host, port = store.server
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return f"{host} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}."

    def connect() -> str:
        host, port = store.server
        socket.create_connection((host, port), timeout=STEP_SEC).close()
        return f"Port {port} of {host} answers."

    def log_in() -> str:
        store.connect()
        return store.greeting

    def write() -> str:
        store.try_folder()
        return f"A small file was written to {place} and deleted."

    return [("resolve", resolve), ("connect", connect), ("log in", log_in), ("write", write)]


def _made(name: str, look: Callable[[], str], store: Store, hand: Hand) -> Step:
    try:
        return Step(name, True, hand.do(look))
    except ExportError as error:
        return Step(name, False, error.message)
    except socket.gaierror as error:
        host, _ = store.server
        return Step(name, False, f"The name {host} is not known: {error.strerror}. Correct it.")
    except Exception as error:  # Each driver brings its own.
        if not (explained := store.explained(error)):
            raise
        return Step(name, False, explained.message)


def _close(store: Store, hand: Hand) -> None:
    with suppress(Exception):  # The steps have said what there is to say.
        hand.do(store.close, stoppable=False, limit_sec=CLOSE_SEC)
