"""Runs a slot once more because a person asks for it, as a further attempt with its own row."""

import json
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.db.models import Max

from queryexport.errors import ConfigurationError, ExportError
from queryexport.parameters import find_parameters
from scheduling import runs
from scheduling.delivering import earlier_attempts, plan
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.rules import WATERMARK_NAMES

Trigger = SchedulingHistoryItem.Trigger

OTHERWISE = "Choose “with the item's present parameters”, or run the item now."


class ParametersDoNotFit(ConfigurationError):
    """The parameters that a run was given cannot be used any more; those of the item may be."""


def run_again(
    run: SchedulingHistoryItem,
    *,
    user: User | AnonymousUser | None,
    trigger: SchedulingHistoryItem.Trigger = Trigger.RERUN,
    present_parameters: bool = False,
    missing_only: bool = False,
) -> SchedulingHistoryItem:
    """Queues a further attempt of the run's slot, and hands it to the workers once it is committed.

    It runs the item and its query as they are now, with the parameters that `run` was given, so
    that relative dates are the same days; or with the item's present ones, if they are chosen or
    the run has none. It delivers to all destinations, or, with `missing_only`, to those that did
    not get all, and of an e-mail to those recipients. Of several people who ask at once, one gets a
    run.

    Raises `ParametersDoNotFit`, or `ConfigurationError` when the slot cannot be run again.
    """
    with transaction.atomic():
        run = _locked(run)
        given = check(run, present_parameters=present_parameters)
        item = _item(run)
        if missing_only and not missing(run):
            raise ConfigurationError(
                f"Each destination of run {run.pk} has got its rows. Run the slot again for all."
            )
        again = SchedulingHistoryItem.of(
            item,
            run.scheduled_for,
            trigger=trigger,
            user=user if isinstance(user, User) else None,
            attempt=_next_attempt(run, item),
            retry_of=run,
            given_parameters=given,
            carries_on=missing_only,
        )
        again.save(force_insert=True)
        transaction.on_commit(lambda: runs.dispatch(again))
    return again


def check(run: SchedulingHistoryItem, *, present_parameters: bool = False) -> Any:
    """The parameters that a further attempt would be given; None stands for the item's own.

    Raises like `run_again`.
    """
    item = _item(run)
    _refuse_unfinished(run, item)
    given = None if present_parameters else run.given_parameters
    if given is None:
        item.check_parameters(run.scheduled_for)
    else:
        _refuse_misfit(run, item)
        _refuse_other_days(run, item)
    return given


def missing(run: SchedulingHistoryItem) -> list[str]:
    """The destinations that did not get all although others did; nothing if it is all or none."""
    if run.item is None or run.trigger == Trigger.REPLAY:
        return []
    found = plan(run.item, [run, *earlier_attempts(run)], by_hand=True)
    return [target.output.label for target in found.targets] if found.got else []


def lock(item_pk: int) -> None:
    """Keeps others from adding runs of the item until the transaction ends.

    To be called before anything is read, so that what is read is what the others have left.
    """
    SchedulingItem.objects.select_for_update().filter(pk=item_pk).first()


def _locked(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    """The run as it is now, with its item, to which nobody else adds runs meanwhile."""
    if run.item_id is not None:
        lock(run.item_id)
    rows = SchedulingHistoryItem.objects.select_related("item__query", "item__connection")
    return rows.get(pk=run.pk)


def _item(run: SchedulingHistoryItem) -> SchedulingItem:
    if run.item is None:
        raise ConfigurationError(
            f"The item of run {run.pk}, “{run.item_name}”, was deleted. Create an item for the "
            f"query {run.query} and run that one."
        )
    if run.trigger == Trigger.REPLAY:
        raise ConfigurationError(
            f"Run {run.pk} sent undelivered rows of another run again, and ran no query. What it "
            "did not deliver is sent again by “Send undelivered rows again” on its page."
        )
    if not run.is_over:
        raise ConfigurationError(
            f"Run {run.pk} is {run.get_status_display().lower()} and not over yet. Wait until it "
            "is, or cancel it, then run it again."
        )
    return run.item


def _attempts(run: SchedulingHistoryItem, item: SchedulingItem) -> Any:
    return item.history.filter(scheduled_for=run.scheduled_for)


def _refuse_unfinished(run: SchedulingHistoryItem, item: SchedulingItem) -> None:
    unfinished = _attempts(run, item).filter(status__in=SchedulingHistoryItem.UNFINISHED)
    if other := unfinished.select_related("user").order_by("attempt").first():
        asked = f", asked for by {other.user}" if other.user else ""
        raise ConfigurationError(
            f"Attempt {other.attempt} of the same slot, run {other.pk}, is "
            f"{other.get_status_display().lower()} already{asked}. Wait until it is over, or "
            "cancel it."
        )


def _next_attempt(run: SchedulingHistoryItem, item: SchedulingItem) -> int:
    greatest: int = _attempts(run, item).aggregate(greatest=Max("attempt"))["greatest"]
    return greatest + 1


def _refuse_misfit(run: SchedulingHistoryItem, item: SchedulingItem) -> None:
    given = run.given_parameters or {}
    try:
        item.check_parameters(run.scheduled_for, given)
    except ExportError as error:
        raise ParametersDoNotFit(
            f"The parameters of run {run.pk} do not fit the query {item.query} as it is now. "
            f"{_misfit(item, given) or error.message} {OTHERWISE}"
        ) from error


def _misfit(item: SchedulingItem, given: Mapping[str, Any]) -> str:
    """Which names the query uses without a value, and which values it does not use."""
    used = find_parameters(item.query.sql, mysql=item.connection.reads_as_mysql)
    own = [name for name in used if not (item.watermark_column and name in WATERMARK_NAMES)]
    missing = [f"It uses :{name}, which they do not have." for name in own if name not in given]
    unused = [f"It does not use their {name}." for name in given if name not in own]
    return " ".join([*missing, *unused])


def _refuse_other_days(run: SchedulingHistoryItem, item: SchedulingItem) -> None:
    """Relative dates are days in the item's zone, which may have been changed since."""
    bound = item.bound_parameters(run.scheduled_for, run.given_parameters)
    now = json.loads(json.dumps(bound, cls=DjangoJSONEncoder))
    for name, value in now.items():
        if (then := run.parameters.get(name, value)) != value:
            raise ParametersDoNotFit(
                f"In run {run.pk} the parameter {name} was {then}. It would be {value} now, "
                f"because the item's zone was changed to {item.timezone}. {OTHERWISE}"
            )
