"""Runs an SFTP server by asyncssh inside the test process, for what sshd can't be made to do."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import asyncssh

from tests.services.processes import LOOPBACK, free_port
from tests.services.sftp import SftpServer

_START_SECONDS = 10


class _Accounts(asyncssh.SSHServer):
    """asyncssh calls these methods, whose names it prescribes."""

    def __init__(self, password: str) -> None:
        self._password = password

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == self._password


class PlainFiles(asyncssh.SFTPServer):
    """An SFTP server without OpenSSH's extensions: like sshd, its rename replaces nothing."""

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        raise asyncssh.SFTPOpUnsupported("posix_rename is not supported")

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        os.link(self.map_path(oldpath), self.map_path(newpath))
        Path(os.fsdecode(self.map_path(oldpath))).unlink()


class Losing(asyncssh.SFTPServer):
    """An SFTP server that says it has written everything, and has only the first piece."""

    def write(self, file_obj: Any, offset: int, data: bytes) -> int:
        return super().write(file_obj, offset, data) if offset == 0 else len(data)


class Refusing(asyncssh.SFTPServer):
    """An SFTP server that lets files be written, and not renamed."""

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        raise asyncssh.SFTPPermissionDenied("renaming is forbidden")


@contextmanager
def running(folder: Path, files: type[asyncssh.SFTPServer]) -> Iterator[SftpServer]:
    """Give an SFTP server of this kind, into which the password may log in."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    port, password = free_port(), secrets.token_urlsafe(12)
    known_hosts = folder / "known_hosts"
    line = host_key.export_public_key().decode()
    known_hosts.write_text(f"[{LOOPBACK}]:{port} {line}")
    (folder / "files").mkdir()
    server = SftpServer(
        port, "anna", folder / "none", known_hosts, folder / "files", password=password
    )
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="sftp-server")
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_START_SECONDS)

    async def start() -> Any:
        return await asyncssh.listen(
            LOOPBACK,
            port,
            server_factory=lambda: _Accounts(password),
            server_host_keys=[host_key],
            sftp_factory=files,
            config=None,
        )

    async def stop(acceptor: Any) -> None:
        acceptor.close()
        await acceptor.wait_closed()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest, timeout=2)

    try:
        acceptor = call(start())
        yield server
        call(stop(acceptor))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
