"""A run whose process is killed, at any point and for any destination, is made good by itself."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from tests.end_to_end.crash_judge import table
from tests.end_to_end.crash_matrix import NUMBERED, Matrix, all_at_work, ask_for_all, wait_until
from tests.end_to_end.crash_points import CASES, Case
from tests.end_to_end.installation import install, new_database
from tests.factories import make_database
from tests.services.kafka import KafkaBroker
from tests.services.postgresql import PostgreSQL
from tests.services.redis_server import RedisServer
from tests.services.smtp import SMTPServer

pytestmark = [pytest.mark.services, pytest.mark.slow]

WITHIN_SEC = 420
REDIS_DATABASE = 7


@pytest.fixture
def make_matrix(
    tmp_path: Path, kafka: KafkaBroker, smtp_server: SMTPServer
) -> Callable[..., Matrix]:
    def make(cases: Sequence[Case], **settings: str) -> Matrix:
        folder = tmp_path / "installation"
        folders = {"CRASH_FOLDER": folder / "crashes", "TMPDIR": folder / "tmp"}
        for path in folders.values():
            path.mkdir(parents=True)
        mail = f"smtp://{smtp_server.host}:{smtp_server.port}"
        named = {name: str(path) for name, path in folders.items()}
        installation = install(folder, EMAIL_URL=mail, **named, **settings)
        source = make_database(tmp_path / "numbered.sqlite3", NUMBERED)
        return Matrix(cases, installation, source, kafka, smtp_server)

    return make


@pytest.fixture
def judge(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> Callable[[Matrix], None]:
    """Lets everybody be killed, prints what became of it, and fails if that is not as promised."""

    def run(matrix: Matrix) -> None:
        began = time.monotonic()
        matrix.load()
        with all_at_work(matrix.installation) as supervisors:
            askers_killed = ask_for_all(matrix.installation, within_sec=WITHIN_SEC)
            wait_until(matrix.is_over, within_sec=WITHIN_SEC)
        took_sec = time.monotonic() - began
        evidence = matrix.evidence()
        outcomes = [evidence.of(case) for case in matrix.cases]
        totals = {
            "cases": len(outcomes),
            "kills": len(evidence.marks),
            "rows claiming success with data missing": sum(each.lacking for each in outcomes),
            "rows stuck in queued or running": len(evidence.stuck),
            "slots run twice": len(evidence.run_twice),
            "ledger entries claiming rows that are not there": len(evidence.untrue_in_the_ledger),
            "watermarks not moved once by the success": sum(
                each.case.has_watermark and not each.watermark_is_true for each in outcomes
            ),
            "messages twice in one run": evidence.twice_in_one_run,
            "items delivered again, in part or whole": sum(
                each.delivered_again > 0 for each in outcomes
            ),
            ".part files left by the killed": sum(each.litter_of_the_killed for each in outcomes),
            ".part files left at the end": sum(each.litter for each in outcomes),
            "temporary files left by the killed": len(matrix.litter),
            "seconds": round(took_sec),
        }
        with capsys.disabled():
            print("", *table(outcomes), "", sep="\n")
            for name, value in totals.items():
                record_property(name, value)
                print(f"{name}: {value}")
        faults = {each.case.name: each.faults for each in outcomes if each.faults}
        assert faults == {}
        assert (evidence.stuck, evidence.run_twice, evidence.untrue_in_the_ledger) == ([], [], [])
        assert evidence.twice_in_one_run == 0
        assert {int(line.partition("\t")[0]) for line in evidence.started} == {
            run["pk"] for run in evidence.history if run["started_at"]
        }
        replaced = {each.log_name: each.replaced for each in supervisors}
        whole_workers = sum(case.whole_worker for case in matrix.cases)
        assert sum(replaced.values()) == whole_workers, replaced
        assert askers_killed == sum(case.of_the_asker for case in matrix.cases)

    return run


def test_what_is_killed_anywhere_is_made_good_and_claims_nothing_that_is_not_there(
    make_matrix: Callable[..., Matrix],
    judge: Callable[[Matrix], None],
    postgresql: PostgreSQL,
    redis_server: RedisServer,
) -> None:
    broker = redis_server.database_url(REDIS_DATABASE)
    with redis.Redis.from_url(broker) as connection:
        connection.flushdb()
    database = new_database(postgresql)
    judge(make_matrix(list(CASES.values()), DATABASE_URL=database, CELERY_BROKER_URL=broker))


def test_so_it_is_on_one_machine_with_sqlite_and_a_folder_for_a_broker(
    make_matrix: Callable[..., Matrix], judge: Callable[[Matrix], None]
) -> None:
    judge(make_matrix([case for case in CASES.values() if not case.whole_worker]))
