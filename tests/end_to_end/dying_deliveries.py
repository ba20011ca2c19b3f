"""Carries out runs to several destinations, each in a process of its own that dies at its step.

    python -m tests.end_to_end.dying_deliveries first
    python -m tests.end_to_end.dying_deliveries again
    python -m tests.end_to_end.dying_deliveries clear

`first` queues a slot of each item and carries it out; `again` finds lost what was killed before,
and carries out what is queued then; `clear` deletes, two hours later, the spools that nobody needs.
The last line that it prints is what the database has then, in JSON.
"""

import json
import os
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)


class Doomed:
    """What the hooks of the crash matrix read of a case: where it dies, and the marks' name."""

    whole_worker = False

    def __init__(self, slug: str, attempt: int, place: str) -> None:
        self.name = self.slug = f"{slug}.{attempt}"
        self.kills = (place,)
        self.point = self


def main(command: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "queryexport.settings")
    django.setup()
    from django.utils import timezone

    from queryexport.celery import app
    from scheduling import runs, spools, sweep
    from scheduling.models import SchedulingItem

    app.set_current()
    ended: dict[int, int] = {}
    match command:
        case "first":
            for item in SchedulingItem.objects.order_by("pk"):
                assert runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
            ended = carry_out_all()
        case "again":
            sweep.sweep(timezone.now() + 2 * sweep.LOST_AFTER)
            ended = carry_out_all()
        case "clear":
            spools.clear(timezone.now() + timedelta(hours=2))
    print(json.dumps({"ended": ended, **everything()}))


def carry_out_all() -> dict[int, int]:
    """How the processes ended in which the queued runs were carried out, one after another."""
    from scheduling.models import SchedulingHistoryItem

    queued = SchedulingHistoryItem.objects.filter(status="queued").order_by("pk")
    return {run: _in_a_child(run) for run in list(queued.values_list("pk", flat=True))}


def everything() -> dict[str, Any]:
    from scheduling.models import RunDestination, SchedulingHistoryItem

    history = SchedulingHistoryItem.objects.order_by("pk").values(
        "pk", "item_name", "attempt", "status", "error", "row_count", "rows_delivered", "spool"
    )
    outcomes = RunDestination.objects.order_by("pk").values("run", "name", "status")
    return {"history": list(history), "outcomes": list(outcomes)}


def _in_a_child(run: int) -> int:
    """The exit code; minus the signal that ended it."""
    from django.db import connections

    connections.close_all()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            _execute(run)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _execute(pk: int) -> None:
    from scheduling import runs
    from scheduling.models import SchedulingHistoryItem
    from tests.end_to_end.delivery_kills import CASES

    run = SchedulingHistoryItem.objects.get(pk=pk)
    if kill := CASES[run.item_name].kill(run.attempt):
        _arm(Doomed(run.item_name, run.attempt, kill.place), kill.sink)
    runs.execute(pk)


def _arm(doomed: Doomed, sink: str) -> None:
    """Wraps the product's functions, so that this process dies where it has to.

    The hooks of a delivery are those of the crash matrix. They are to see the case only during the
    delivery to `sink`.
    """
    from tests.end_to_end import crash_hooks, crash_hooks_of_sinks

    crash_hooks_of_sinks.arm()
    if sink:
        _arm_the_delivery(doomed, sink)
    else:
        crash_hooks.this.case = doomed
        _arm_the_spool()
        _arm_the_end()


def _arm_the_delivery(doomed: Doomed, sink: str) -> None:
    from django.db import connection, transaction
    from django.db.models.query import QuerySet

    from queryexport.sinks.email import EmailSink
    from queryexport.sinks.file import FileSink
    from scheduling.delivering import Deliveries
    from scheduling.models import RunDestination
    from tests.end_to_end.crash_hooks import reach, this, wrap
    from tests.end_to_end.delivery_kills import FILES, MAIL

    def deliver(real: Any, mine: Any, *arguments: Any) -> Any:
        name = MAIL if isinstance(mine, EmailSink) else mine.path.name
        if name != FILES.get(sink, sink):
            return real(mine, *arguments)
        this.case = doomed
        reach("before the delivery")
        receipt = real(mine, *arguments)
        this.case = None
        return receipt

    def insert(real: Any, rows: Any, objs: Any, *arguments: Any, **options: Any) -> Any:
        answer = real(rows, objs, *arguments, **options)
        if rows.model is RunDestination and objs[-1].name == sink:
            assert connection.in_atomic_block
            reach("outcome not committed", doomed)
        return answer

    def save(real: Any, deliveries: Any) -> None:
        real(deliveries)
        if deliveries.outcomes[-1].name == sink:
            transaction.on_commit(lambda: reach("outcome committed", doomed))

    wrap(FileSink, "deliver", deliver)
    wrap(EmailSink, "deliver", deliver)
    wrap(QuerySet, "_batched_insert", insert)
    wrap(Deliveries, "save", save)


def _arm_the_spool() -> None:
    from queryexport.spool import Spool
    from scheduling import execution
    from scheduling.delivering import Deliveries
    from scheduling.models import SchedulingHistoryItem
    from tests.end_to_end.crash_hooks import kill_after, kill_before, reach, wrap

    def frame(real: Any, spool: Spool, number: int, content: Any) -> bytes:
        if number == 3:
            reach("in the middle of the spool")
        return real(spool, number, content)

    def replace(real: Any, path: Path, target: Path) -> Path:
        if path.name.endswith(".rows.part"):
            reach("spool complete, not named")
        return real(path, target)

    def record(real: Any, run: Any, **values: Any) -> None:
        real(run, **values)
        if "spool" in values:
            reach("spool on the row")

    def is_there(real: Any, deliveries: Deliveries) -> bool:
        found = real(deliveries)
        if found:
            reach("rows of the spool counted")
        return found

    kill_before(execution, "open_query", "before the query")
    wrap(Spool, "_frame", frame)
    wrap(Path, "replace", replace)
    kill_after(Spool, "write", "spool named, not on the row")
    wrap(SchedulingHistoryItem, "record", record)
    wrap(Deliveries, "_spool_is_there", is_there)


def _arm_the_end() -> None:
    from django.db import connection

    from scheduling import execution, spools
    from scheduling.models import SchedulingHistoryItem
    from tests.end_to_end.crash_hooks import kill_after, reach, wrap

    def release(real: Any, *arguments: Any) -> None:
        assert not connection.in_atomic_block
        reach("end committed, spool not deleted")
        real(*arguments)
        reach("spool let go")

    kill_after(SchedulingHistoryItem, "finish", "row ended, not committed")
    kill_after(execution, "try_again", "next attempt, not committed")
    wrap(spools, "release", release)


if __name__ == "__main__":
    main(*sys.argv[1:])
