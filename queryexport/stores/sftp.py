"""A folder on an SFTP server, by asyncssh.

fsspec's sshfs, which asyncssh is below of, accepts any host key unless told otherwise, copies and
deletes where a server has no atomic rename, and creates missing folders.

Replacing needs the server's `posix-rename@openssh.com` (OpenSSH and most others have it). Without
it a file is published under a free name only, because the old one would have to be deleted first. A
name that is not to be replaced is taken by SFTP's own rename, which fails if it exists.
"""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar

from queryexport.errors import ConfigurationError, DeliveryError, ExportError
from queryexport.stores.address import Address
from queryexport.stores.folder import LITTER_AFTER_SEC, Publication, is_part, new_part
from queryexport.stores.hand import Hand, Overdue
from queryexport.stores.upload import Upload, driver, words

T = TypeVar("T")

USUAL_PORT = 22
LOOK_FOR_LITTER_SEC = 5.0


class SftpStore:
    """One folder, one connection, one file at a time. All but `sever` in one thread."""

    def __init__(self, address: Address, shown: Address, *, timeout_sec: float) -> None:
        self._ssh = driver("asyncssh", extra="sftp")
        self._address = address
        self._shown = shown
        self._timeout_sec = timeout_sec
        self._runner: asyncio.Runner | None = None
        self._connection: Any = None
        self._sftp: Any = None
        self._file: Any = None
        self._folder = _folder(address.folders)

    @property
    def server(self) -> tuple[str, int]:
        return self._address.host, self._address.port or USUAL_PORT

    def twin(self) -> "SftpStore":
        return SftpStore(self._address, self._shown, timeout_sec=self._timeout_sec)

    def place(self, name: str) -> str:
        return self._shown.place(name)

    @property
    def greeting(self) -> str:
        return f"{self.place('')} is there, and the account may see it."

    def connect(self) -> None:
        login = self._login()
        self._runner = asyncio.Runner()
        self._run(self._connect(login))

    async def _connect(self, login: dict[str, Any]) -> None:
        host, port = self.server
        self._connection = await self._ssh.connect(
            host,
            port,
            username=self._address.user,
            **login,
            # Nothing of the account that the worker runs as but its known hosts.
            config=None,
            agent_path=None,
            gss_host=None,
            connect_timeout=self._timeout_sec,
            login_timeout=self._timeout_sec,
        )
        self._sftp = await self._connection.start_sftp_client()
        if not await self._sftp.isdir(self._folder):
            raise DeliveryError(
                f"The folder {self.place('')} does not exist on the SFTP server, or the account "
                "may not see it. Nothing was delivered. Create it, or correct the URL."
            )

    def close(self) -> None:
        if self._runner is None:
            return
        try:
            self._run(self._disconnect())
        finally:
            self._runner.close()
            self._runner = None

    async def _disconnect(self) -> None:
        if self._sftp is not None:
            self._sftp.exit()
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()

    def sever(self) -> None:
        if self._runner is not None:
            self._runner.get_loop().call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()
        for task in asyncio.all_tasks(self._runner.get_loop() if self._runner else None):
            task.cancel()

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
            return int(self._run(self._sftp.lstat(self._path(name))).size or 0)
        except self._ssh.SFTPNoSuchFile:
            return None

    def create(self, name: str) -> None:
        self._file = self._run(self._sftp.open(self._path(name), "xb"))

    def write(self, piece: bytes) -> None:
        self._run(self._file.write(piece))

    def finish(self) -> None:
        self._run(self._finish())

    async def _finish(self) -> None:
        try:
            await self._file.fsync()
        except self._ssh.SFTPOpUnsupported:
            pass
        finally:
            await self._file.close()

    def rename(self, part: str, name: str, *, replace: bool) -> None:
        self._run(self._rename(self._path(part), self._path(name), name, replace))

    async def _rename(self, part: str, target: str, name: str, replace: bool) -> None:
        if replace:
            try:
                await self._sftp.posix_rename(part, target)
                return
            except self._ssh.SFTPOpUnsupported:
                pass
        try:
            await self._sftp.rename(part, target)
        except (self._ssh.SFTPFailure, self._ssh.SFTPFileAlreadyExists) as error:
            if not await self._sftp.lexists(target):
                raise
            if replace:
                raise ConfigurationError(
                    f"{self.place(name)} exists, and this SFTP server cannot replace a file in one "
                    "step (it has no posix-rename@openssh.com). Let the item number its files, or "
                    "give each a name of its own by a date."
                ) from error
            raise FileExistsError(name) from error

    def remove(self, name: str) -> bool:
        try:
            self._run(self._sftp.remove(self._path(name)))
        except self._ssh.SFTPNoSuchFile:
            return False
        return True

    def clear_litter(self) -> None:
        try:
            self._run(self._clear_litter())
        except self._ssh.SFTPError as error:
            if self.is_lost(error):
                raise

    async def _clear_litter(self) -> None:
        end = monotonic() + LOOK_FOR_LITTER_SEC
        async for entry in self._sftp.scandir(self._folder):
            name, written = str(entry.filename), entry.attrs.mtime
            if is_part(name) and written and written < time() - LITTER_AFTER_SEC:
                await self._sftp.remove(self._path(name))
            if monotonic() > end:
                return

    def is_lost(self, error: Exception) -> bool:
        if isinstance(error, self._ssh.SFTPError):
            return isinstance(error, self._ssh.SFTPConnectionLost | self._ssh.SFTPNoConnection)
        return isinstance(error, Overdue | OSError | self._ssh.DisconnectError)

    def explained(self, error: Exception) -> ExportError | None:
        where, why = self.place(""), words(error, self._address)
        match error:
            case self._ssh.HostKeyNotVerifiable():
                return ConfigurationError(
                    f"The SFTP server of {where} is not the one that is known: {why}. Nothing was "
                    "sent to it. Compare its host key with what its operator says, then add it to "
                    f"{self._known_hosts()} (ssh-keyscan prints the line)."
                )
            case self._ssh.PermissionDenied():
                return DeliveryError(
                    f"The SFTP server of {where} refused the log-in: {why}. Nothing was delivered. "
                    "Check the user, and the password or key in the worker's environment."
                )
            case self._ssh.SFTPPermissionDenied() | self._ssh.SFTPWriteProtect():
                return DeliveryError(
                    f"The account may not write to {where}: {why}. Nothing was published. "
                    "Give it the right to create, rename and delete files there."
                )
            case self._ssh.SFTPNoSuchFile() | self._ssh.SFTPNoSuchPath():
                return DeliveryError(
                    f"The folder {where} is not there any more: {why}. Nothing was published. "
                    "Create it, or correct the URL."
                )
            case self._ssh.SFTPError() if not self.is_lost(error):
                return DeliveryError(
                    f"The SFTP server refused to write to {where}: {why}. Nothing was published, "
                    "and the file there, if any, is as it was. Check its free space and quota, and "
                    "its log.",
                    retryable=True,
                )
        if not isinstance(error, OSError | self._ssh.Error):
            return None
        return DeliveryError(
            f"The SFTP server of {where} could not be reached, or the connection broke: {why}. "
            "Nothing was published, and the file there, if any, is as it was. Check host, port and "
            "network.",
            retryable=True,
        )

    def _login(self) -> dict[str, Any]:
        known_hosts = self._known_hosts()
        if not known_hosts.is_file():
            raise ConfigurationError(
                f"The host keys of SFTP servers are checked against {known_hosts}, which is not "
                "there. Write the server's line into it (ssh-keyscan prints it; compare it with "
                "what the server's operator says), or name another file by ?known_hosts=."
            )
        password = self._address.password.stored()
        keys = [self._key()] if "key" in self._address.options else None
        if not password and not keys:
            raise ConfigurationError(
                f"The URL {self.place('')} has neither a password nor a key. Write "
                "sftp://user:${SFTP_PASSWORD}@host/folder, or ?key=/path/of/the/private/key."
            )
        return {
            "known_hosts": str(known_hosts),
            "password": password or None,
            "client_keys": keys,
        }

    def _known_hosts(self) -> Path:
        named = self._address.options.get("known_hosts", "~/.ssh/known_hosts")
        return Path(named).expanduser()

    def _key(self) -> Any:
        """The private key: of the file that the option names, or the option's own text."""
        key = self._address.options["key"]
        passphrase = self._address.options.get("passphrase")
        try:
            if key.lstrip().startswith("-----BEGIN"):
                return self._ssh.import_private_key(key, passphrase)
            return self._ssh.read_private_key(Path(key).expanduser(), passphrase)
        except (OSError, self._ssh.KeyImportError, self._ssh.KeyEncryptionError) as error:
            # The text of the error may hold a part of the key.
            raise ConfigurationError(
                f"The private key for {self.place('')} cannot be read ({type(error).__name__}). "
                "Check the file that ?key= names, its permissions, and ?passphrase=."
            ) from None

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    def _run(self, work: Awaitable[T]) -> T:
        assert self._runner, "connect() comes first"
        return self._runner.run(_waited(work))


async def _waited(work: Awaitable[T]) -> T:
    return await work


def _folder(folders: tuple[str, ...]) -> str:
    """`~` as the first folder is where the account begins."""
    if folders[:1] == ("~",):
        return "/".join([".", *folders[1:]])
    return "/" + "/".join(folders)
