"""A whole installation for a test: its own database, broker and folders, beat and a worker."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography.fernet import Fernet

from demo.processes import running
from tests.services.postgresql import PostgreSQL

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_ALL = """
from scheduling import runs
from scheduling.models import SchedulingItem
for item in SchedulingItem.objects.order_by("pk"):
    runs.run_now(item, trigger=runs.Trigger.COMMAND, user=None)
"""


@dataclass(frozen=True)
class Installation:
    """Runs the product's own commands with settings that come from the environment only."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def exports(self) -> Path:
        return self.folder / "exports"

    def manage(self, *arguments: str) -> str:
        """Runs `manage.py` to its end and returns what it printed; raises if it failed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_all(self) -> None:
        """Asks for a run of every item."""
        self.manage("shell", "-c", RUN_ALL)

    def load(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores the rows, in the form of Django's fixtures."""
        fixture = self.folder / "rows.json"
        fixture.write_text(json.dumps(rows))
        self.manage("loaddata", str(fixture))

    def history(self) -> list[dict[str, Any]]:
        """The history rows as they are now, oldest first."""
        dumped = json.loads(self.manage("dumpdata", "scheduling.schedulinghistoryitem"))
        rows = [{"pk": row["pk"], **row["fields"]} for row in dumped]
        return sorted(rows, key=lambda row: row["pk"])

    def celery(self, name: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """A Celery process of the installation, with its log in the folder."""
        return self.process(name, "celery", "-A", "queryexport", name, *arguments)

    def process(
        self, log_name: str, *command: str
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Another process of the installation, `python -m …`, with a log of that name."""
        return running(command, self.log(log_name), environment=self.environment)

    @contextmanager
    def talking(self, name: str, script: str) -> Iterator[subprocess.Popen[str]]:
        """A Django shell with the script, to be talked to by lines; it ends with its input.

        It says `ready` once it listens.
        """
        with (
            self.log(name).open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "manage.py", "shell", "-v0", "-c", script],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            assert process.stdin
            assert self.heard(name, process) == "ready"
            yield process
            process.stdin.close()

    def heard(self, name: str, process: subprocess.Popen[str]) -> str:
        """The next line that such a shell says; fails when it has ended."""
        assert process.stdout
        line = process.stdout.readline()
        assert line, self.log(name).read_text()
        return line.strip()

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def install(folder: Path, **settings: str) -> Installation:
    """A new installation with an empty database; `settings` are environment variables."""
    for name in ("celery", "exports"):
        (folder / name).mkdir(parents=True)
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    environment = {
        **plain,
        "SECRET_KEY": "only for this test",
        "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "DEBUG": "true",
        "DATA_DIR": str(folder),
        "EXPORT_ROOT": str(folder / "exports"),
        "DATABASE_URL": f"sqlite:///{folder}/queryexport.sqlite3",
        "CELERY_BROKER_URL": "folder://localhost",
        "EMAIL_URL": f"filemail:///{folder}/mail",
        "TIME_ZONE": "UTC",
        **settings,
    }
    installation = Installation(folder, environment)
    installation.manage("migrate", "--verbosity=0")
    return installation


def new_database(server: PostgreSQL) -> str:
    """The DATABASE_URL of an empty database on the server."""
    name = f"query_export_{uuid4().hex[:8]}"
    with closing(server.connect(autocommit=True)) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.url.rpartition('/')[0]}/{name}"


def sleeping_items(
    server: PostgreSQL, items: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Items by name, with their fields, and what they need, in the form of Django's fixtures.

    Each has a query of its own that gives one row after `sleep_sec`, and no slot unless it has a
    `cron_expression`. The installation's environment needs the server's password, in
    SOURCE_PASSWORD.
    """
    connection = {
        "name": "elephant",
        "engine": "postgresql",
        "host": server.host,
        "port": server.port,
        "database": server.database,
        "username": server.user,
        "password": "${SOURCE_PASSWORD}",
    }
    found = [{"model": "queryexport.databaseconnection", "pk": 1, "fields": connection}]
    for pk, (name, fields) in enumerate(items.items(), 1):
        own = {"cron_expression": "0 0 1 1 *", "retry_delay_minutes": 0, **fields}
        sleep_sec = own.pop("sleep_sec", 0)
        query = {"name": f"{name}.sql", "sql": f"SELECT 1 AS id FROM pg_sleep({sleep_sec})"}
        item = {"name": name, "query": pk, "connection": 1, "scheduling_mode": "cron", **own}
        found.append({"model": "queryexport.query", "pk": pk, "fields": query})
        found.append({"model": "scheduling.schedulingitem", "pk": pk, "fields": item})
    return found
