"""What is written in one statement, and in how many, holds on PostgreSQL as on SQLite."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.installation import REPOSITORY, new_database
from tests.services.postgresql import PostgreSQL

pytestmark = [pytest.mark.services, pytest.mark.slow]

FILES = (
    "test_bulk.py",
    "test_retention.py",
    "test_several_destinations.py",
    "test_slots.py",
    "test_sweep.py",
)


def test_slots_sweeps_and_their_statements(postgresql: PostgreSQL) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--create-db",
         *(str(here / name) for name in FILES)],
        cwd=REPOSITORY,
        env={**os.environ, "DATABASE_URL": new_database(postgresql)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
