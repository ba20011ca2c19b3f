"""Starts a server process on loopback, waits until it answers, and stops it by its process id."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LOOPBACK = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]
KEPT_LOGS = REPOSITORY / "var" / "log" / "services"
_LOG_LINES_SHOWN = 40
_POLL_SECONDS = 0.05


class ServiceError(RuntimeError):
    """A service could not be prepared, started or stopped."""


def free_ports(count: int) -> list[int]:
    """Return that many different ports on loopback that nobody listens on."""
    with ExitStack() as sockets:
        # All are held until the last one is chosen, otherwise one could be handed out twice.
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in opened:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in opened]


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    return free_ports(1)[0]


def find_program(name: str, *folders: Path) -> Path | None:
    """Return where the program is: in PATH, else in one of the folders, else None."""
    places = [os.environ.get("PATH", os.defpath), *map(str, folders)]
    found = shutil.which(name, path=os.pathsep.join(places))
    return Path(found) if found else None


def unprivileged_account(*names: str) -> str | None:
    """Return the first of the accounts that exists, or None when we are not root anyway."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in names:
        if name in known:
            return name
    raise ServiceError(
        f"None of the accounts {', '.join(names)} exists on this machine, and the server refuses "
        "to run as root. Create one of them, or run the tests as an ordinary user."
    )


@contextmanager
def service_folder(service: str, account: str | None = None) -> Iterator[Path]:
    """Make a temporary folder that belongs to the account, and remove it in the end."""
    # pytest's tmp_path is of no use here: only its owner may enter the folders above it.
    with tempfile.TemporaryDirectory(prefix=f"query-export-{service}-") as name:
        if account:
            shutil.chown(name, account)
        yield Path(name)


def _as_account(account: str | None) -> dict[str, Any]:
    if account is None:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run_tool(command: Sequence[str | Path], *, cwd: Path, account: str | None = None) -> None:
    """Run a service's own preparing program to its end, and raise with its output if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **_as_account(account),
    )
    if done.returncode != 0:
        raise ServiceError(
            f"{command[0]} ended with status {done.returncode}. It said:\n{done.stdout.strip()}"
        )


@dataclass
class ServerProcess:
    """One server: a context manager that also can be stopped, killed and started again."""

    name: str
    command: Sequence[str | Path]
    folder: Path
    # Raises as long as the server does not answer, and returns as soon as it does.
    probe: Callable[[], object]
    account: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    start_seconds: float = 60
    stop_seconds: float = 30
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return as soon as it answers."""
        if self.running:
            return
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._death_with_parent(), *(str(part) for part in self.command)],
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for pytest, which then stops the servers in order.
                start_new_session=True,
                **_as_account(self.account),
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the server to end, and kill it when it has not done so in time."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES_SHOWN:]) or "(the log is empty)"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._keep_log()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._keep_log()

    def _keep_log(self) -> None:
        """Copy the log out of the temporary folder, for those who look into a failed run."""
        KEPT_LOGS.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.log_path, KEPT_LOGS / self.log_path.name)

    def _death_with_parent(self) -> list[str]:
        """Return the prefix that makes the server end when pytest is killed, where it is safe."""
        setpriv = find_program("setpriv")
        # The kernel ties this to the thread that starts the server, and only the main thread
        # is sure to live as long as the tests.
        if setpriv is None or threading.current_thread() is not threading.main_thread():
            return []
        return [str(setpriv), "--pdeathsig", self.stop_signal.name.removeprefix("SIG"), "--"]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while True:
            try:
                self.probe()
            # Every client library has exceptions of its own for "not yet".
            except Exception as error:
                self._raise_if_hopeless(error, deadline)
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _raise_if_hopeless(self, error: Exception, deadline: float) -> None:
        status = self._process.poll() if self._process else None
        if status is not None:
            problem = f"ended with status {status} while it was starting"
        elif time.monotonic() > deadline:
            problem = f"did not answer within {self.start_seconds:g} s (last: {error!r})"
        else:
            return
        raise ServiceError(
            f"The server {self.name} {problem}. Its command: "
            f"{' '.join(str(part) for part in self.command)}\n"
            f"The last lines of its log, kept in {KEPT_LOGS / self.log_path.name}:\n"
            f"{self.log_tail()}"
        ) from error
