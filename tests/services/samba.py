"""Runs Samba's smbd on loopback, with a share and an account of its own."""

import getpass
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from tests.services.processes import (
    LOOPBACK,
    ServerProcess,
    ServiceError,
    find_program,
    free_port,
    service_folder,
)

SHARE = "exports"


@dataclass(frozen=True)
class SambaServer:
    """Where the server is, how to log in, and the folder that is its share."""

    port: int
    user: str
    password: str = field(repr=False)
    folder: Path
    version: str = ""
    host: str = LOOPBACK
    process: ServerProcess | None = field(default=None, repr=False)

    def new_folder(self) -> Path:
        """An empty folder in the share."""
        path = self.folder / uuid4().hex
        path.mkdir()
        return path

    def url(self, folder: str = "", *, port: int | None = None) -> str:
        """With a reference to the environment variable SMB_PASSWORD."""
        login = f"{self.user}:${{SMB_PASSWORD}}"
        return f"smb://{login}@{self.host}:{port or self.port}/{SHARE}{folder}"


def unavailable_reason() -> str | None:
    """Return why no Samba can be had here, or None."""
    if os.geteuid() != 0:
        return "smbd can only be started by root"
    if _program("smbd") is None or _program("smbpasswd") is None:
        return "smbd or smbpasswd not found (Debian package samba)"
    return None


@contextmanager
def running() -> Iterator[SambaServer]:
    """Give a server whose share the account may write to."""
    with service_folder("samba") as folder:
        server = SambaServer(
            free_port(), getpass.getuser(), secrets.token_urlsafe(12), folder / "files"
        )
        configuration = _configuration(folder, server)
        _add_account(configuration, server)
        command = [str(_program("smbd")), "-F", "--no-process-group", "-s", str(configuration)]
        with ServerProcess("smbd", command, folder, lambda: _connect(server.port)) as process:
            yield SambaServer(
                server.port,
                server.user,
                server.password,
                server.folder,
                _version(),
                process=process,
            )


def _program(name: str) -> Path | None:
    return find_program(name, Path("/usr/sbin"), Path("/usr/bin"))


def _configuration(folder: Path, server: SambaServer) -> Path:
    path = folder / "smb.conf"
    for name in ("private", "state", "files"):
        (folder / name).mkdir()
    path.write_text(
        "[global]\n"
        f"smb ports = {server.port}\n"
        f"interfaces = {LOOPBACK}\n"
        "bind interfaces only = yes\n"
        "server role = standalone server\n"
        "server min protocol = SMB2\n"
        "disable netbios = yes\n"
        "load printers = no\n"
        "map to guest = never\n"
        f"passdb backend = tdbsam:{folder}/private/passdb.tdb\n"
        f"private dir = {folder}/private\n"
        f"state directory = {folder}/state\n"
        f"cache directory = {folder}/state\n"
        f"lock directory = {folder}/state\n"
        f"pid directory = {folder}/state\n"
        f"ncalrpc dir = {folder}/state/ncalrpc\n"
        f"log file = {folder}/state/log.%m\n"
        f"[{SHARE}]\n"
        f"path = {server.folder}\n"
        "read only = no\n"
        "[locked]\n"
        f"path = {server.folder}\n"
        "read only = yes\n"
    )
    return path


def _add_account(configuration: Path, server: SambaServer) -> None:
    done = subprocess.run(
        [str(_program("smbpasswd")), "-c", str(configuration), "-s", "-a", server.user],
        input=f"{server.password}\n{server.password}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"smbpasswd added no account: {done.stdout}{done.stderr}")


def _connect(port: int) -> None:
    socket.create_connection((LOOPBACK, port), timeout=5).close()


def _version() -> str:
    done = subprocess.run([str(_program("smbd")), "--version"], capture_output=True, text=True)
    return done.stdout.strip().removeprefix("Version ")
