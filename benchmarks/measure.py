"""Runs the sides of a comparison as processes, and lets the kernel account for each."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent

Command = Sequence[str]


@dataclass(frozen=True)
class Measured:
    """One side: wall and CPU seconds of its processes together, and the largest one's memory."""

    name: str
    rows: int
    wall_sec: float
    cpu_sec: float
    peak_mb: float

    @property
    def rows_per_sec(self) -> float:
        return self.rows / self.wall_sec


def measured(
    name: str, rows: int, pipeline: Sequence[Command], environment: Mapping[str, str]
) -> Measured:
    """Runs the commands, each reading what the one before writes; raises if one fails."""
    started = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = []
    for command in pipeline:
        source = processes[-1].stdout if processes else subprocess.DEVNULL
        output = None if command is pipeline[-1] else subprocess.PIPE
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdin=source, stdout=output)
        )
        if source not in (None, subprocess.DEVNULL):
            source.close()  # The next process alone holds the pipe now.
    with _memory_watched(processes) as peak_kb:
        cpu_sec = sum(_waited_for(process, name) for process in processes)
        wall_sec = time.monotonic() - started
    return Measured(name, rows, wall_sec, cpu_sec, max(peak_kb.values()) / 1024)


def print_table(title: str, sides: Sequence[Measured]) -> None:
    """The sides, each compared with the first two."""
    table = Table(title=title, title_justify="left")
    table.add_column("side")
    for column in ("rows", "rows/s", "÷ a", "÷ b", "wall s", "CPU s", "peak MB"):
        table.add_column(column, justify="right")
    for side in sides:
        table.add_row(
            side.name,
            f"{side.rows:,}",
            f"{side.rows_per_sec:,.0f}",
            *(f"{side.rows_per_sec / other.rows_per_sec:.2f}" for other in sides[:2]),
            f"{side.wall_sec:.1f}",
            f"{side.cpu_sec:.1f}",
            f"{side.peak_mb:.0f}",
        )
    Console().print(table)


def _waited_for(process: subprocess.Popen[bytes], name: str) -> float:
    """The CPU seconds of the process, once it has ended well."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: {process.args} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _memory_watched(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[dict[int, int]]:
    """The most memory of each process so far, in kB.

    `ru_maxrss` would do, but a new process inherits there what its parent had.
    """
    peak_kb = {process.pid: 0 for process in processes}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for pid in peak_kb:
                with suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    peak = next(line for line in lines if line.startswith("VmHWM"))
                    peak_kb[pid] = int(peak.split()[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield peak_kb
    over.set()
    watcher.join()
