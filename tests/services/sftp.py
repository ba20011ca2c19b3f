"""Runs OpenSSH's sshd on loopback, with keys and a configuration of its own."""

import asyncio
import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.services.processes import (
    LOOPBACK,
    ServerProcess,
    find_program,
    free_port,
    run_tool,
    service_folder,
)


@dataclass(frozen=True)
class SftpServer:
    """Where the server is, what a client needs to log in, and the folder that it may write to."""

    port: int
    user: str
    key: Path
    known_hosts: Path
    folder: Path
    version: str = ""
    password: str = field(default="", repr=False)
    host: str = LOOPBACK
    process: ServerProcess | None = field(default=None, repr=False)

    def url(self, folder: Path | None = None, *, port: int | None = None) -> str:
        """With the key, whose file's name is no secret."""
        options = f"key={quote(str(self.key))}&known_hosts={quote(str(self.known_hosts))}"
        return (
            f"sftp://{self.user}@{self.host}:{port or self.port}{folder or self.folder}?{options}"
        )

    def trust(self, port: int) -> None:
        """Know the server by another port too, on which a proxy stands before it."""
        _, kind, key = self.known_hosts.read_text().splitlines()[0].split(" ", 2)
        with self.known_hosts.open("a") as file:
            file.write(f"[{self.host}]:{port} {kind} {key}\n")


def unavailable_reason() -> str | None:
    """Return why no sshd can be had here, or None."""
    if _program() is None or find_program("ssh-keygen") is None:
        return "sshd or ssh-keygen not found (Debian packages openssh-server, openssh-client)"
    return None


@contextmanager
def running() -> Iterator[SftpServer]:
    """Give OpenSSH's server, into which a key may log in, and no password."""
    with service_folder("sshd") as folder:
        port = free_port()
        for name in ("host_key", "client_key"):
            command: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
            run_tool([*command, folder / name], cwd=folder)
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[{LOOPBACK}]:{port} {host_key}")
        (folder / "files").mkdir()
        with _process(folder, port) as process:
            yield SftpServer(
                port,
                getpass.getuser(),
                folder / "client_key",
                folder / "known_hosts",
                folder / "files",
                _version(port),
                process=process,
            )


def _program() -> Path | None:
    return find_program("sshd", Path("/usr/sbin"))


def _process(folder: Path, port: int) -> ServerProcess:
    configuration = folder / "sshd_config"
    configuration.write_text(
        f"ListenAddress {LOOPBACK}:{port}\n"
        f"HostKey {folder / 'host_key'}\n"
        f"AuthorizedKeysFile {folder / 'client_key.pub'}\n"
        "PidFile none\n"
        "StrictModes no\n"
        "UsePAM no\n"
        "PermitRootLogin yes\n"
        "MaxStartups 100\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        # The daemon's own start script makes it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = [str(_program()), "-D", "-e", "-f", str(configuration)]
    return ServerProcess("sshd", command, folder, probe=lambda: _version(port), stop_seconds=10)


def _version(port: int) -> str:
    async def greeting() -> str:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()
        return line.decode().strip().removeprefix("SSH-2.0-")

    return asyncio.run(greeting())
