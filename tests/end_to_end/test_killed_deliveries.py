"""A run to several destinations that is killed, at any step, goes on from there by itself."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from tests.end_to_end.delivery_judge import ROWS, Eye, Sight, Verdict, table
from tests.end_to_end.delivery_kills import CASES, CSV, FILES, MAIL, OWN, Case
from tests.end_to_end.installation import REPOSITORY, Installation, install, new_database
from tests.factories import make_database
from tests.services.postgresql import PostgreSQL
from tests.services.smtp import SMTPServer

pytestmark = [pytest.mark.services, pytest.mark.slow]

NUMBERED = f"""
CREATE TABLE numbered AS
WITH RECURSIVE numbers(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < {ROWS})
SELECT id, lower(hex(randomblob(100))) AS padding FROM numbers
"""
# Every run of the query gives other numbers, so equal rows come from one run of it.
SQL = "SELECT id, random() AS chance, padding FROM numbered ORDER BY id"
SECRET_KEY = "only for this test"
BUSY = "450 4.3.2 Come back later"


@dataclass(frozen=True)
class Rounds:
    """Processes that die, and those that go on for them, in one installation."""

    cases: Sequence[Case]
    installation: Installation
    smtp: SMTPServer
    eye: Eye

    def load(self, source: Path) -> None:
        self.installation.load(list(_fixtures(source, self.cases)))
        for case in self.cases:
            if case.busy:
                self.smtp.answers[f"RCPT {case.address}"] = BUSY

    def run(self, command: str) -> list[Sight]:
        """One round, and what there is of each item afterwards."""
        said = self.said(command)
        self.smtp.answers.clear()
        return [self.eye.sees(case, said) for case in self.cases]

    def said(self, command: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "tests.end_to_end.dying_deliveries", command],
            cwd=REPOSITORY,
            env=self.installation.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def make_rounds(
    tmp_path: Path, smtp_server: SMTPServer, settings: Settings
) -> Callable[..., Rounds]:
    def make(cases: Sequence[Case], **environment: str) -> Rounds:
        folder = tmp_path / "installation"
        folders = {"CRASH_FOLDER": folder / "crashes", "TMPDIR": folder / "tmp"}
        for path in folders.values():
            path.mkdir(parents=True)
        mail = f"smtp://{smtp_server.host}:{smtp_server.port}"
        named = {name: str(path) for name, path in folders.items()}
        installation = install(folder, EMAIL_URL=mail, **named, **environment)
        # To read the spools here.
        settings.SECRET_KEY, settings.SPOOL_ROOT = SECRET_KEY, folder / "spool"
        return Rounds(
            cases,
            installation,
            smtp_server,
            Eye(folder / "exports", folder / "spool", smtp_server.messages),
        )

    return make


@pytest.fixture
def judge(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Rounds], None]:
    """Lets everybody be killed, prints what became of it, and fails if that is not as promised."""

    def run(rounds: Rounds) -> None:
        began = time.monotonic()
        rounds.load(make_database(tmp_path / "numbered.sqlite3", NUMBERED))
        seen = [rounds.run(command) for command in ("first", "again", "again")]
        verdicts = [
            Verdict(case, sights)
            for case, sights in zip(rounds.cases, zip(*seen, strict=True), strict=True)
        ]
        orphans = len(list(rounds.eye.spools.iterdir()))
        history = rounds.said("clear")["history"]
        totals = {
            "cases": len(verdicts),
            "kills": sum(len(case.kills) for case in rounds.cases),
            "delivered again": sum(
                sum(verdict.deliveries.values()) - len(verdict.deliveries) for verdict in verdicts
            ),
            "delivered again at most": sum(sum(each.may_repeat.values()) for each in verdicts),
            "spools left by the killed": orphans,
            "seconds": round(time.monotonic() - began),
        }
        with capsys.disabled():
            print("", *table(verdicts), "", sep="\n")
            for name, value in totals.items():
                record_property(name, value)
                print(f"{name}: {value}")
        assert {each.case.name: each.faults for each in verdicts if each.faults} == {}
        assert [run for run in history if run["status"] in ("queued", "running")] == []
        assert list(rounds.eye.spools.iterdir()) == []
        assert list(Path(rounds.installation.environment["TMPDIR"]).iterdir()) == []

    return run


def test_what_is_killed_between_destinations_goes_on_with_the_same_rows_where_it_stood(
    make_rounds: Callable[..., Rounds], judge: Callable[[Rounds], None]
) -> None:
    judge(make_rounds([*CASES.values()]))


def test_so_it_does_on_postgresql(
    make_rounds: Callable[..., Rounds], judge: Callable[[Rounds], None], postgresql: PostgreSQL
) -> None:
    """For the kills at which the two databases could differ."""
    cases = [case for case in CASES.values() if "committed" in case.name]
    judge(make_rounds(cases, DATABASE_URL=new_database(postgresql)))


def _fixtures(source: Path, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Connection, query, items and destinations, in the form of Django's fixtures."""
    numbers = {"name": "numbers", "engine": "sqlite", "database": str(source)}
    yield _row("queryexport.databaseconnection", 1, numbers)
    yield _row("queryexport.query", 1, {"name": "all.sql", "sql": SQL})
    for pk, case in enumerate(cases, 1):
        yield _row("scheduling.schedulingitem", pk, _item(case))
        yield _row("scheduling.destination", 2 * pk, _csv(pk, case))
        yield _row("scheduling.destination", 2 * pk + 1, _mail(pk, case))


def _item(case: Case) -> dict[str, Any]:
    return {
        "name": case.slug,
        "query": 1,
        "connection": 1,
        "enabled": False,
        "scheduling_mode": "cron",
        "cron_expression": "0 8 * * *",
        "retry_delay_minutes": 0,
        "output_dir": case.slug,
        "output_filename_template": FILES[OWN],
    }


def _csv(item: int, case: Case) -> dict[str, Any]:
    return {
        "item": item,
        "name": CSV,
        "output_format": "csv",
        "output_dir": case.slug,
        "output_filename_template": FILES[CSV],
    }


def _mail(item: int, case: Case) -> dict[str, Any]:
    return {
        "item": item,
        "name": MAIL,
        "sharing_mode": "email",
        "email_to": case.address,
        "output_format": "csv",
        "output_filename_template": "rows.csv",
    }


def _row(model: str, pk: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "pk": pk, "fields": fields}
