"""What a run may claim: the status that the receipt of each of its destinations proves."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from queryexport.errors import ExportError, WorkerStopping
from queryexport.rows import Receipt
from scheduling.models import Output, RunDestination, SchedulingHistoryItem

Status = SchedulingHistoryItem.Status

# With these, nothing is left to be delivered.
GOOD = (Status.SUCCESS, Status.SKIPPED)


@dataclass(frozen=True)
class Outcome:
    """What became of one destination: `rows` arrived, and `error` says what did not.

    `may_pass`: it is worth another attempt. `receipt` is None when the sink gave none. It
    `broke_off` if an error ended it before it had come to the last row.
    """

    name: str
    status: SchedulingHistoryItem.Status
    rows: int
    error: str = ""
    may_pass: bool = False
    receipt: Receipt | None = None
    is_kafka: bool = False
    broke_off: bool = False


def of_receipt(output: Output, receipt: Receipt) -> Outcome:
    status, error = judge(receipt, least_percent=output.kafka_least_percent)
    return Outcome(
        output.label,
        status,
        receipt.rows,
        error,
        may_pass=may_pass(receipt),
        receipt=receipt,
        is_kafka=bool(output.topic()),
    )


def of_error(output: Output, error: ExportError, *, rows: int) -> Outcome:
    """`rows` are known to have arrived before it."""
    receipt = error.receipt
    return Outcome(
        output.label,
        Status.FAIL,
        receipt.rows if receipt else rows,
        error.message,
        may_pass=error.retryable or isinstance(error, WorkerStopping),
        receipt=receipt,
        is_kafka=bool(output.topic()),
        broke_off=True,
    )


def of_stored(row: RunDestination) -> Outcome:
    """One of an earlier attempt, which is not tried again."""
    error = row.error
    if row.status not in GOOD:
        error += f" (since run {row.run_id}, and not tried again)"
    return Outcome(row.name, Status(row.status), row.rows_delivered, error)


def judge(receipt: Receipt, *, least_percent: Decimal) -> tuple[SchedulingHistoryItem.Status, str]:
    """The status that the receipt proves, with the error that goes with it.

    Rows that the item told the sink to leave out count neither way. At or above `least_percent` of
    the others delivered, a run that is not complete is partial. So is a message that not everybody
    got.
    """
    if receipt.nothing_sent:
        return Status.SKIPPED, receipt.nothing_sent
    wanted = receipt.handed - receipt.skipped
    if receipt.rows == wanted:
        return _judge_recipients(receipt)
    percent = Decimal(receipt.rows) * 100 / wanted
    reasons = "; ".join(dict.fromkeys(row.reason for row in receipt.undelivered[:3]))
    error = (
        f"only {receipt.rows} of {wanted} messages delivered ({percent:.1f} %): "
        f"{receipt.failed} failed, {receipt.unknown} unknown. {reasons}"
    )
    return (Status.PARTIAL if percent >= least_percent else Status.FAIL), error.strip()


def may_pass(receipt: Receipt) -> bool:
    """Whether some recipients were refused for now only (RFC 5321, 4.2.1: 4yz)."""
    return any(answer.startswith("4") for answer in receipt.refused.values())


def together(outcomes: Sequence[Outcome]) -> tuple[SchedulingHistoryItem.Status, str]:
    """The status of a run with these outcomes; each that is not good is named in its error."""
    if len(outcomes) == 1:
        return outcomes[0].status, outcomes[0].error
    statuses = {outcome.status for outcome in outcomes}
    if statuses <= {*GOOD}:
        return (Status.SUCCESS, "") if Status.SUCCESS in statuses else (Status.SKIPPED, "")
    bad = [outcome for outcome in outcomes if outcome.status not in GOOD]
    words = " ".join(f"“{outcome.name}”: {outcome.error}" for outcome in bad)
    error = f"{len(bad)} of {len(outcomes)} destinations did not get all. {words}"
    return (Status.FAIL if statuses == {Status.FAIL} else Status.PARTIAL), error


def _judge_recipients(receipt: Receipt) -> tuple[SchedulingHistoryItem.Status, str]:
    if not receipt.refused:
        return Status.SUCCESS, ""
    words = "; ".join(f"{who}: {answer}" for who, answer in receipt.refused.items())
    got = len(receipt.recipients) - len(receipt.refused)
    error = f"{got} of {len(receipt.recipients)} recipients got the message. Refused were: {words}"
    return Status.PARTIAL, error
