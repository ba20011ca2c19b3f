"""The points of the crash matrix that every run passes, whatever its destination."""

import threading
import time
from collections.abc import Iterable
from typing import Any

from kombu import Producer

from queryexport import source
from queryexport.engines import DIALECTS
from scheduling import attempts, execution, runs, sweep, turns, watermarks
from scheduling.execution import Execution
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.end_to_end.crash_hooks import (
    FOLDER,
    Around,
    case_of,
    is_still_to_die,
    kill_after,
    reach,
    this,
    wrap,
)
from tests.end_to_end.crash_points import CASES, CLAIMED, IN_THE_MIDDLE, SIGN_OF_LIFE

STARTED = FOLDER / "started.txt"
SILENT_SEC = 60


def arm() -> None:
    """Wraps them; to be called once, before any process is forked."""
    _arm_the_door()
    _arm_the_claim_and_the_end()
    _arm_the_source()
    _arm_the_sweep()


def _arm_the_door() -> None:
    def queue(real: Around, item: SchedulingItem, *arguments: Any, **options: Any) -> Any:
        reach("tick received, no row written", CASES[item.name])
        return real(item, *arguments, **options)

    def execute(real: Around, pk: int, **options: Any) -> Any:
        this.case = case_of(SchedulingHistoryItem.objects.get(pk=pk))
        reach("tick received, row written")
        reach("message received, not claimed")
        try:
            return real(pk, **options)
        finally:
            this.case, this.exports = None, False

    def publish(
        real: Around, producer: Producer, body: Any, *arguments: Any, **options: Any
    ) -> Any:
        if (options.get("headers") or {}).get("task") != runs.EXECUTE_TASK:
            return real(producer, body, *arguments, **options)
        [[pk], *_] = body
        case = case_of(SchedulingHistoryItem.objects.get(pk=pk))
        if this.sweeps:
            answer = real(producer, body, *arguments, **options)
            reach("sweep: sent, not written down", case)
        else:
            reach("asked for, row written, not sent", case)
            answer = real(producer, body, *arguments, **options)
            reach("asked for, sent, not written down", case)
        return answer

    wrap(runs, "queue", queue)
    wrap(runs, "execute", execute)
    wrap(Producer, "publish", publish)


def _arm_the_claim_and_the_end() -> None:
    def claim(real: Around, run: SchedulingHistoryItem, *arguments: Any, **options: Any) -> bool:
        won = real(run, *arguments, **options)
        if won:
            line = f"{run.pk}\t{run.item_name}\t{run.scheduled_for}\t{run.attempt}\n"
            with STARTED.open("ab", buffering=0) as file:
                file.write(line.encode())
            reach(CLAIMED)
        return won

    def claim_row(real: Around, run: SchedulingHistoryItem, worker: str) -> bool:
        won = real(run, worker)
        if won:
            reach("claimed, not committed")
        return won

    def record(real: Around, run: SchedulingHistoryItem, **values: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            reach(SIGN_OF_LIFE)
        real(run, **values)

    wrap(turns, "claim", claim)
    wrap(SchedulingHistoryItem, "claim", claim_row)
    wrap(SchedulingHistoryItem, "record", record)
    kill_after(SchedulingHistoryItem, "finish", "row ended, not committed")
    kill_after(watermarks, "move", "watermark moved, not committed")
    kill_after(Execution, "finish", "row's end committed")


def _arm_the_source() -> None:
    """For the export itself: the query for the bound of a watermark goes before it."""

    def open_query(real: Around, *arguments: Any, **options: Any) -> Any:
        reach("before the source is connected")
        this.exports = True
        return real(*arguments, **options)

    def execute(real: Around, *arguments: Any, **options: Any) -> Any:
        if not this.exports:
            return real(*arguments, **options)
        reach("source connected, no query sent")
        cursor = real(*arguments, **options)
        reach("query sent, no row read")
        return cursor

    def read(real: Around, batches: Any) -> Any:
        if not this.exports:
            return real(batches)
        try:
            batch = real(batches)
        except StopIteration:
            reach("last row read")
            raise
        batches.read_so_often = getattr(batches, "read_so_often", 0) + 1
        if batches.read_so_often == 1:
            reach("first rows read")
        if batches.read_so_often == 2:
            reach(IN_THE_MIDDLE)
            if is_still_to_die(SIGN_OF_LIFE):
                time.sleep(SILENT_SEC)
        return batch

    wrap(execution, "open_query", open_query)
    wrap(type(DIALECTS["sqlite"]), "execute", execute)
    wrap(source.Batches, "__next__", read)


def _arm_the_sweep() -> None:
    def look(real: Around, *arguments: Any) -> Any:
        this.sweeps = True
        try:
            return real(*arguments)
        finally:
            this.sweeps = False

    def lose(real: Around, run: SchedulingHistoryItem, *arguments: Any) -> bool:
        lost = real(run, *arguments)
        if lost:
            reach("sweep: lost, not committed", case_of(run))
        return lost

    def try_again(real: Around, run: SchedulingHistoryItem, **options: Any) -> Any:
        again = real(run, **options)
        if again:
            reach("sweep: next attempt, not committed", case_of(run))
        return again

    def dispatch_all(
        real: Around, waiting: Iterable[SchedulingHistoryItem], *arguments: Any
    ) -> int:
        waiting = list(waiting)
        for run in waiting:
            if run.attempt > 1:
                reach("sweep: next attempt not sent", case_of(run))
        return real(waiting, *arguments)

    wrap(sweep, "sweep", look)
    wrap(SchedulingHistoryItem, "lose", lose)
    wrap(attempts, "try_again", try_again)
    wrap(runs, "dispatch_all", dispatch_all)
