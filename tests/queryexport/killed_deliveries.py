"""Delivers into a copy of a folder for each step of the delivery, killed by SIGKILL at that step.

`python -m tests.queryexport.killed_deliveries FOLDER ON_EXISTING plain|packed MISSING…` copies
`FOLDER/before` to `FOLDER/001`, `FOLDER/002`, …, and prints for each the name of the step at which
the process was killed. The last copy is that of the delivery that nobody killed; it has no name.
"""

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from tests.queryexport.file_steps import Steps, deliver, kill_at, sink, without

SEED = "new"


def main(base: Path, on_existing: str, packing: str, *missing: str) -> None:
    for number in count(1):
        folder = base / f"{number:03}"
        shutil.copytree(base / "before", folder)
        child = os.fork()
        if not child:
            _die_at(number, folder, on_existing, packing == "packed", missing)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        print((folder.parent / f"{number:03}.step").read_text())


def _die_at(
    number: int, folder: Path, on_existing: str, packed: bool, missing: tuple[str, ...]
) -> None:
    """Never returns: the process is killed, or ends well because there is no such step."""
    note = os.open(folder.with_suffix(".step"), os.O_CREAT | os.O_WRONLY)
    kill = kill_at(number)

    def at(reached: int, name: str) -> None:
        if reached == number:
            os.write(note, name.encode())
        kill(reached, name)

    target = sink(folder, on_existing, packed=packed)
    with without(*missing), Steps(at).counted():
        deliver(target, SEED)
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
