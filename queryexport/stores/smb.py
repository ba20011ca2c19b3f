"""A folder of an SMB share (Windows, Samba), by smbprotocol.

fsspec's own `smb` lies on it too, but shares its connections with everything else in the process,
also over a fork, and waits for ever on a server that has gone silent.

The file is renamed over its target in one request, which the server does whole or not at all. Every
message is signed, so nobody changes the file on its way. A target that somebody has open on Windows
can't be replaced; the run fails and may be tried again.
"""

import errno
import socket
import stat
from contextlib import suppress
from time import time
from typing import Any
from uuid import uuid4

from queryexport.errors import ConfigurationError, DeliveryError, ExportError
from queryexport.stores.address import Address
from queryexport.stores.folder import (
    LITTER_AFTER_SEC,
    PART_PREFIX,
    PART_SUFFIX,
    Publication,
    new_part,
)
from queryexport.stores.hand import Hand
from queryexport.stores.upload import Upload, driver, words

USUAL_PORT = 445
TOLD_APART = (
    "BadNetworkName",
    "AccessDenied",
    "CannotDelete",
    "SharingViolation",
    "DeletePending",
    "ObjectNameNotFound",
    "ObjectPathNotFound",
)


class SmbStore:
    """One folder, one connection, one file at a time. All but `sever` in one thread."""

    def __init__(self, address: Address, shown: Address, *, timeout_sec: float) -> None:
        self._smb = driver("smbclient", extra="smb")
        self._wire = driver("smbprotocol.connection", extra="smb")
        self._errors = driver("smbprotocol.exceptions", extra="smb")
        self._address = address
        self._shown = shown
        self._timeout_sec = timeout_sec
        self._connections: dict[str, Any] = {}
        self._file: Any = None

    @property
    def server(self) -> tuple[str, int]:
        return self._address.host, self._address.port or USUAL_PORT

    def twin(self) -> "SmbStore":
        return SmbStore(self._address, self._shown, timeout_sec=self._timeout_sec)

    def place(self, name: str) -> str:
        return self._shown.place(name)

    @property
    def greeting(self) -> str:
        return f"{self.place('')} is there, and the account may see it."

    def connect(self) -> None:
        if not self._address.password:
            raise ConfigurationError(
                f"The URL {self.place('')} has no password. Write "
                "smb://user:${SMB_PASSWORD}@server/share/folder."
            )
        self._connect()
        self._smb.register_session(self._address.host, **self._how())
        if not self._is_folder():
            raise DeliveryError(
                f"The folder {self.place('')} does not exist on the SMB server, or the account "
                "may not see it. Nothing was delivered. Create it, or correct the URL."
            )

    def _connect(self) -> None:
        """With an identity of its own: Samba hands two connections of one client to one process,
        and loses the second when that process is about to end with the first.
        """
        host, port = self.server
        connection = self._wire.Connection(uuid4(), host, port, require_signing=True)
        self._connections[f"{host.lower()}:{port}"] = connection
        connection.connect(timeout=self._timeout_sec)

    def _is_folder(self) -> bool:
        try:
            return stat.S_ISDIR(self._smb.stat(self._path(""), **self._how()).st_mode)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        return False

    def _how(self) -> dict[str, Any]:
        options = self._address.options
        domain = options.get("domain")
        user = self._address.user
        return {
            "username": f"{domain}\\{user}" if domain else user,
            "password": self._address.password.stored(),
            "port": self.server[1],
            "encrypt": True if options.get("encrypt") == "yes" else None,
            "connection_timeout": self._timeout_sec,
            "connection_cache": self._connections,
        }

    def close(self) -> None:
        for key, connection in list(self._connections.items()):
            if connection.transport is None:
                del self._connections[key]
        self._forget_lost_handles()
        self._smb.reset_connection_cache(connection_cache=self._connections)

    def _forget_lost_handles(self) -> None:
        """Without a connection they can't be closed, and would warn of it when they are deleted."""
        sessions = [
            session
            for connection in self._connections.values()
            if not connection.transport.connected
            for session in connection.session_table.values()
        ]
        handles = [handle for session in sessions for handle in session.open_table.values()]
        if self._file is not None:
            handles.append(self._file.fd)
        for handle in handles:
            handle._connected = False

    def sever(self) -> None:
        for connection in list(self._connections.values()):
            # Its own close() waits for a send() that is under way, which may take for ever.
            with suppress(OSError, AttributeError):  # It may not be connected yet.
                connection.transport._sock.shutdown(socket.SHUT_RDWR)

    def put(self, upload: Upload, hand: Hand) -> str:
        return Publication(self, upload, hand).publish()

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def try_folder(self) -> None:
        part = new_part()
        self.create(part)
        try:
            self.write(b"Query Export can write here.\n")
            self.finish()
        finally:
            self.remove(part)

    def size(self, name: str) -> int | None:
        try:
            return int(self._smb.lstat(self._path(name), **self._how()).st_size)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        return None

    def create(self, name: str) -> None:
        self._file = self._smb.open_file(self._path(name), "xb", buffering=0, **self._how())

    def write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        self._file.flush()
        self._file.close()
        self._file = None

    def rename(self, part: str, name: str, *, replace: bool) -> None:
        rename = self._smb.replace if replace else self._smb.rename
        try:
            rename(self._path(part), self._path(name), **self._how())
        except OSError as error:
            if error.errno == errno.EEXIST and not replace:
                raise FileExistsError(name) from error
            raise

    def remove(self, name: str) -> bool:
        if self._file is not None:
            self.finish()
        try:
            self._smb.remove(self._path(name), **self._how())
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def clear_litter(self) -> None:
        with suppress(self._errors.SMBOSError):  # The delivery itself says what is wrong.
            self._clear_litter()

    def _clear_litter(self) -> None:
        pattern = f"{PART_PREFIX}*{PART_SUFFIX}"
        found = self._smb.scandir(self._path(""), search_pattern=pattern, **self._how())
        for entry in list(found):
            written = self._smb.lstat(self._path(entry.name), **self._how()).st_mtime
            if written < time() - LITTER_AFTER_SEC:
                self.remove(entry.name)

    def is_lost(self, error: Exception) -> bool:
        if isinstance(error, self._errors.SMBOSError | self._errors.SMBResponseException):
            return False
        # A connection that can't be made is a ValueError.
        return isinstance(error, OSError | self._errors.SMBException) or isinstance(
            error.__cause__, OSError
        )

    def explained(self, error: Exception) -> ExportError | None:
        where, why = self.place(""), words(error, self._address)
        refused = {
            self._errors.LogonFailure,
            self._errors.SMBAuthenticationError,
            self._errors.WrongPassword,
            self._errors.PasswordExpired,
        }
        if isinstance(error, tuple(refused)):
            return DeliveryError(
                f"The SMB server of {where} refused the log-in: {why}. Nothing was delivered. "
                "Check the user, the domain, and the password in the worker's environment."
            )
        status = getattr(error, "ntstatus", getattr(error, "status", None))
        match self._name_of(status):
            case "BadNetworkName":
                return DeliveryError(
                    f"There is no such share at {where}: {why}. Nothing was delivered. "
                    "Correct the URL."
                )
            case "AccessDenied" | "CannotDelete":
                return DeliveryError(
                    f"The account may not write to {where}: {why}. Nothing was published. "
                    "Give it the right to create, rename and delete files there."
                )
            case "SharingViolation" | "DeletePending":
                return DeliveryError(
                    f"The file in {where} is open in another program: {why}. Nothing was "
                    "published, and the file there is as it was. Close it there.",
                    retryable=True,
                )
            case "ObjectNameNotFound" | "ObjectPathNotFound":
                return DeliveryError(
                    f"The folder {where} is not there any more: {why}. Nothing was published. "
                    "Create it, or correct the URL."
                )
        if isinstance(error, self._errors.SMBOSError | self._errors.SMBResponseException):
            return DeliveryError(
                f"The SMB server refused to write to {where}: {why}. Nothing was published, and "
                "the file there, if any, is as it was. Check its free space and quota.",
                retryable=True,
            )
        if not self.is_lost(error):
            return None
        return DeliveryError(
            f"The SMB server of {where} could not be reached, or the connection broke: {why}. "
            "Nothing was published, and the file there, if any, is as it was. Check host, port and "
            "network.",
            retryable=True,
        )

    def _name_of(self, status: int | None) -> str:
        return next((name for name in TOLD_APART if status == self._code_of(name)), "")

    def _code_of(self, name: str) -> int:
        return int(getattr(self._errors, name)._STATUS_CODE)

    def _path(self, name: str) -> str:
        return "\\".join(
            ["", "", self._address.host, *self._address.folders, *filter(None, [name])]
        )
