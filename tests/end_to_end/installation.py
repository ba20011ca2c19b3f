"""A whole installation for a test: its own database, broker and folders, beat and a worker."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from demo.processes import running

REPOSITORY = Path(__file__).resolve().parents[2]


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
        command = ("celery", "-A", "queryexport", name, *arguments)
        return running(command, self.log(name), environment=self.environment)

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
