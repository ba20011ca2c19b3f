"""Has the undelivered rows of a run sent again: which ones can be, and which run takes them."""

from collections.abc import Collection
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import Count, QuerySet, Sum
from django.utils import timezone

from queryexport.errors import ConfigurationError, ExportError
from scheduling import runs
from scheduling.models import (
    SchedulingHistoryItem,
    SchedulingItem,
    SharingMode,
    UndeliveredFile,
    UndeliveredMessage,
)


class NothingToSend(ExportError):
    """No row could be taken: there is none, or another run has taken them."""


@dataclass(frozen=True)
class Waiting:
    """The rows of a run that nobody has taken yet, by what is known of them and where they are.

    `doubtful` ones were taken by a run that ended without a word about them.
    """

    failed: int = 0
    failed_in_files: int = 0
    unknown: int = 0
    unknown_in_files: int = 0
    doubtful: bool = False

    @property
    def all_failed(self) -> int:
        return self.failed + self.failed_in_files

    @property
    def all_unknown(self) -> int:
        return self.unknown + self.unknown_in_files

    @property
    def rows(self) -> int:
        return self.all_failed + self.all_unknown


@dataclass(frozen=True)
class _Source:
    """Where a run's rows that nobody has taken are stored."""

    messages: QuerySet[UndeliveredMessage]
    files: QuerySet[UndeliveredFile]
    doubtful: bool

    @classmethod
    def of(cls, run: SchedulingHistoryItem) -> "_Source":
        # A run that took rows and did not account for them keeps none itself: they are all where
        # they were. Once it is over, that does not change any more.
        if run.trigger == runs.Trigger.REPLAY and not run.taken_settled:
            doubtful = run.started_at is not None
            return cls(run.taken.all(), run.taken_files.all(), doubtful)
        free = {"taken_by": None}
        return cls(run.undelivered.filter(**free), run.undelivered_files.filter(**free), False)


def waiting(run: SchedulingHistoryItem) -> Waiting:
    """What can be sent again from that run; nothing while it is not over."""
    if not run.is_over:
        return Waiting()
    source = _Source.of(run)
    rows = dict(source.messages.order_by().values_list("unknown").annotate(Count("pk")))
    in_files = dict(source.files.order_by().values_list("unknown").annotate(Sum("rows")))
    if source.doubtful:
        rows, in_files = {True: sum(rows.values())}, {True: sum(in_files.values())}
    return Waiting(
        failed=rows.get(False, 0),
        failed_in_files=in_files.get(False, 0),
        unknown=rows.get(True, 0),
        unknown_in_files=in_files.get(True, 0),
        doubtful=source.doubtful,
    )


def replay(
    run: SchedulingHistoryItem,
    *,
    user: User | AnonymousUser | None,
    messages: Collection[int] | None = None,
    include_unknown: bool = False,
) -> SchedulingHistoryItem:
    """Queues a run that sends undelivered rows of `run` again, exactly as they were.

    `messages` are the keys of `UndeliveredMessage` rows; None stands for all rows, also those in
    files. Rows of which nothing is known may arrive twice, and are left out unless
    `include_unknown`. A row is taken by one run only, however often and at once this is called.

    Raises `NothingToSend` when no row could be taken, `ConfigurationError` when there is no way to
    send any.
    """
    with transaction.atomic():
        run = SchedulingHistoryItem.objects.select_related("item").get(pk=run.pk)
        again = _queued(run, _item(run), user=user)
        again.row_count = _take(run, again, chosen=messages, include_unknown=include_unknown)
        if not again.row_count:
            raise NothingToSend(_why_nothing(run, again))
        again.save(update_fields=["row_count"])
        transaction.on_commit(lambda: runs.dispatch(again))
    return again


def replay_selected(
    messages: QuerySet[UndeliveredMessage],
    *,
    user: User | AnonymousUser | None,
    include_unknown: bool = False,
) -> tuple[list[SchedulingHistoryItem], list[str]]:
    """The same for rows of any runs: one new run for each run, and why for some there is none."""
    by_run: dict[int, list[int]] = {}
    for run_pk, pk in messages.order_by("run_id", "number").values_list("run_id", "pk"):
        by_run.setdefault(run_pk, []).append(pk)
    queued, refused = [], []
    for run in SchedulingHistoryItem.objects.filter(pk__in=by_run).order_by("pk"):
        chosen = by_run[run.pk]
        try:
            queued.append(replay(run, user=user, messages=chosen, include_unknown=include_unknown))
        except ExportError as error:
            refused.append(error.message)
    return queued, refused


def _item(run: SchedulingHistoryItem) -> SchedulingItem:
    if not run.is_over:
        raise ConfigurationError(f"Run {run.pk} is not over yet. Wait until it is, then try again.")
    if run.item is None:
        raise ConfigurationError(
            f"The item of run {run.pk}, “{run.item_name}”, was deleted, and with it the name of "
            "the Kafka connection. Its rows stay kept, but cannot be sent from here."
        )
    return run.item


def _queued(
    run: SchedulingHistoryItem, item: SchedulingItem, *, user: User | AnonymousUser | None
) -> SchedulingHistoryItem:
    """The history row of the new run; its messages go to the old topic and carry the old id."""
    return SchedulingHistoryItem.objects.create(
        item=item,
        item_name=run.item_name,
        query=run.query,
        connection=run.connection,
        scheduled_for=timezone.now(),
        trigger=runs.Trigger.REPLAY,
        user=user if isinstance(user, User) else None,
        start_date=run.start_date,
        export_mode=SharingMode.KAFKA,
        export_id=run.export_id,
        kafka_topic=run.kafka_topic,
        replay_of=run,
    )


def _take(
    run: SchedulingHistoryItem,
    again: SchedulingHistoryItem,
    *,
    chosen: Collection[int] | None,
    include_unknown: bool,
) -> int:
    """How many rows the new run got: each table in one update, which only one caller can win."""
    source = _Source.of(run)
    messages, files = source.messages.order_by(), source.files.order_by()
    if chosen is not None:
        messages, files = messages.filter(pk__in=chosen), files.none()
    if not include_unknown:
        if source.doubtful:
            return 0
        messages, files = messages.filter(unknown=False), files.filter(unknown=False)
    values = {"taken_by": again} | ({"unknown": True} if source.doubtful else {})
    rows = messages.update(**values)
    files.update(**values)
    return rows + (again.taken_files.aggregate(rows=Sum("rows"))["rows"] or 0)


def _why_nothing(run: SchedulingHistoryItem, again: SchedulingHistoryItem) -> str:
    """Before the new run, which got nothing, is taken back."""
    left = waiting(run)
    if left.rows:
        return (
            f"No such row of run {run.pk} is left. Of the others {left.all_failed} failed, and of "
            f"{left.all_unknown} nothing is known. To send the latter too, tick that they may "
            "arrive twice."
        )
    takers = run.replays.exclude(pk=again.pk).order_by("pk").values_list("pk", flat=True)
    if takers:
        by = ", ".join(map(str, takers))
        return f"Nothing of run {run.pk} is left to send: its rows were taken by run {by}."
    return f"Run {run.pk} kept no undelivered rows. To send its rows, run the item again."
