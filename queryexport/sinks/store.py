"""A file in a folder of a server, S3, SFTP or SMB: the old one or the complete new one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from time import monotonic

from queryexport.contents import Contents
from queryexport.errors import DeliveryUnknown, ExportError, RunStopped, RunSuperseded
from queryexport.rows import Progress, Receipt, Result
from queryexport.sinks.file import OnExisting
from queryexport.sinks.prepared import Prepared, nameless
from queryexport.stores import Store, Upload, check_name, check_rule, open_store, parse
from queryexport.stores.hand import Hand, connected
from queryexport.stores.opening import TIMEOUT_SEC
from queryexport.stores.upload import taken


@dataclass(frozen=True)
class StoreSink:
    """One file in a folder of a server; `queryexport.stores` says what each kind promises.

    The rows are written to a nameless temporary file on this machine, and then sent. Until the one
    request that publishes the file, a run can be stopped, and whatever fails leaves the file there
    as it was. `on_existing` is as for `FileSink`, but older files are not kept. `timeout_sec` is
    for the connection, and for each request.
    """

    url: str
    name: str
    contents: Contents
    on_existing: OnExisting = OnExisting.REPLACE
    timeout_sec: float = TIMEOUT_SEC

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        if self.on_existing is OnExisting.REFUSE:
            self._refuse_early(progress)
        store = self._store()
        with nameless(self.contents, result, name=self.name) as prepared:
            progress.check()
            name = self._put(store, prepared, progress)
        progress.arrived(prepared.written.rows)
        return prepared.receipt(self._place(name), duration_sec=monotonic() - started)

    def _store(self) -> Store:
        """What is wrong with the item is said before its query runs."""
        check_rule(self.on_existing)
        store = open_store(self.url, timeout_sec=self.timeout_sec)
        check_name(parse(self.url).scheme, self.name)
        return store

    def _place(self, name: str) -> str:
        return parse(self.url).place(name)

    def _refuse_early(self, progress: Progress) -> None:
        """Before the query runs. The request that publishes the file decides."""
        store = self._store()
        with _errors_told(store), self._connected(store, progress) as hand:
            if hand.do(store.exists, self.name):
                raise taken(self._place(self.name))

    def _connected(self, store: Store, progress: Progress) -> AbstractContextManager[Hand]:
        return connected(store, lambda: progress.delivered(0), limit_sec=self.timeout_sec)

    def _put(self, store: Store, prepared: Prepared, progress: Progress) -> str:
        upload = Upload(
            prepared.file,
            prepared.size_bytes,
            self.name,
            self.on_existing,
            self.contents.mime_type,
            progress.check,
        )
        try:
            with _errors_told(store), self._connected(store, progress) as hand:
                return store.put(upload, hand)
        except DeliveryUnknown as error:
            rows = prepared.written.rows
            error.receipt = Receipt(0, self._place(self.name), unknown=rows)
            raise


@contextmanager
def _errors_told(store: Store) -> Iterator[None]:
    """Turns the drivers' errors into words, which also say what was left behind on the server."""
    try:
        yield
    except (RunStopped, RunSuperseded):
        raise
    except ExportError as error:
        raise _with_notes(error, error) from error.__cause__
    except Exception as error:  # Each driver brings its own.
        if not (explained := store.explained(error)):
            raise
        raise _with_notes(explained, error) from error


def _with_notes(explained: ExportError, error: Exception) -> ExportError:
    """The error, which also says what was left behind on the server."""
    notes = getattr(error, "__notes__", [])
    if not notes:
        return explained
    words = " ".join([explained.message, *notes])
    return type(explained)(words, retryable=explained.retryable)
