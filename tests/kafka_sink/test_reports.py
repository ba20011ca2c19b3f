"""Every row ends as acked, failed or unknown, whatever the delivery reports say."""

from math import ceil

import pytest
from confluent_kafka import KafkaError
from confluent_kafka import Message as Report
from hypothesis import given
from hypothesis import strategies as st

from kafka_sink.messages import Batch, Message
from kafka_sink.reports import SAMPLE_ROWS, SMALLEST_MS, Latencies, Ledger, Verdict, verdict

CODES = st.one_of(st.just(0), st.integers(-200, -1), st.integers(1, 133))
REPORTS = st.lists(st.tuples(CODES, st.integers(0, 5), st.integers(-1001, 10**6)))


def error_of(code):
    return KafkaError(code) if code else None


def report_of(key=b"A1", value=b"{}", partition=0, offset=0):
    return Report(topic="t", partition=partition, offset=offset, key=key, value=value)


def ledger_after(reports, handed=None):
    ledger = Ledger()
    ledger.handed = len(reports) if handed is None else handed
    ledger.hand_over(Batch([b"A1"] * ledger.handed, [b"{}"] * ledger.handed))
    for code, partition, offset in reports:
        ledger.report(error_of(code), report_of(partition=partition, offset=offset))
    return ledger


@given(REPORTS, st.integers(0, 20))
def test_rows_are_acked_failed_or_unknown_and_nothing_else(reports, silent):
    ledger = ledger_after(reports, len(reports) + silent)
    assert ledger.outstanding == silent
    ledger.give_up()
    ledger.write_off()
    assert ledger.acked + ledger.failed + ledger.unknown == len(reports) + silent
    assert ledger.acked == sum(code == 0 for code, _, _ in reports)


@given(REPORTS)
def test_only_an_acknowledgement_counts_as_arrived(reports):
    ledger = ledger_after(reports)
    ledger.give_up()
    assert ledger.size_bytes == ledger.acked * len(b"A1{}")
    places = {partition for code, partition, offset in reports if code == 0 and offset >= 0}
    assert set(ledger.offsets) == places


@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_a_partition_is_told_by_its_first_and_last_offset(offsets):
    ledger = ledger_after([(0, 2, offset) for offset in offsets])
    assert ledger.offsets == {2: (min(offsets), max(offsets))}


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._PURGE_QUEUE,
        KafkaError.UNKNOWN,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_ENOUGH_REPLICAS,
    ],
)
def test_a_row_that_may_have_been_stored_is_unknown_and_never_sent_again(code):
    ledger = ledger_after([(code, 0, -1)])
    assert (ledger.unknown, len(ledger.waiting)) == (1, 0)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.INVALID_RECORD,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.POLICY_VIOLATION,
    ],
)
def test_a_row_that_was_refused_for_good_is_failed_and_never_sent_again(code):
    ledger = ledger_after([(code, 0, -1)])
    assert (ledger.failed, len(ledger.waiting)) == (1, 0)


def test_a_row_refused_for_now_is_kept_as_it_was_sent():
    ledger = Ledger()
    ledger.handed = 1
    ledger.report(KafkaError(KafkaError.THROTTLING_QUOTA_EXCEEDED), report_of(b"A1", b'{"a":1}'))
    assert ledger.waiting[0][0] == Message(b"A1", b'{"a":1}')
    assert ledger.outstanding == 0


def test_the_first_undelivered_rows_are_named_by_key_and_reason():
    ledger = ledger_after([(KafkaError.MSG_SIZE_TOO_LARGE, 0, -1)] * (SAMPLE_ROWS + 50))
    assert ledger.failed == SAMPLE_ROWS + 50
    assert len(ledger.undelivered) == SAMPLE_ROWS
    assert ledger.undelivered[0].key == "A1"
    assert ledger.undelivered[0].reason.startswith("MSG_SIZE_TOO_LARGE")


def test_a_code_that_nobody_has_heard_of_still_gets_a_verdict():
    assert verdict(9999) is Verdict.REFUSED
    assert verdict(-9999) is Verdict.UNKNOWN


@given(REPORTS)
def test_where_duplicates_are_allowed_unknown_rows_wait_and_stay_unknown(reports):
    ledger = Ledger(resend_unknown=True)
    ledger.handed = len(reports)
    plain = ledger_after(reports)
    for code, partition, offset in reports:
        ledger.report(error_of(code), report_of(partition=partition, offset=offset))
    assert len(ledger.waiting) + ledger.unknown == len(plain.waiting) + plain.unknown
    ledger.give_up()
    plain.give_up()
    assert (ledger.acked, ledger.failed, ledger.unknown) == (
        plain.acked,
        plain.failed,
        plain.unknown,
    )


@pytest.mark.parametrize("code", [KafkaError._PURGE_INFLIGHT, KafkaError._PURGE_QUEUE])
def test_a_row_that_we_gave_up_ourselves_is_not_sent_again(code):
    ledger = Ledger(resend_unknown=True)
    ledger.handed = 1
    ledger.report(KafkaError(code), report_of())
    assert (ledger.unknown, len(ledger.waiting)) == (1, 0)


@given(REPORTS, st.integers(0, 20))
def test_sizes_are_never_claimed_for_rows_without_a_report(reports, silent):
    ledger = ledger_after(reports, len(reports) + silent)
    ledger.give_up()
    ledger.write_off()
    assert ledger.size_bytes == ledger.acked * len(b"A1{}")


def test_a_message_that_waits_keeps_its_own_headers_and_time():
    ledger = Ledger(resend_unknown=True, headers=(("shared", b"1"),))
    ledger.handed = 2
    timed_out = KafkaError(KafkaError._MSG_TIMED_OUT)
    ledger.report(timed_out, report_of(), headers=(("own", b"2"),), timestamp_ms=1234)
    ledger.report(timed_out, report_of())
    assert ledger.waiting[0].message == Message(b"A1", b"{}", (("own", b"2"),), 1234)
    assert ledger.waiting[1].message == Message(b"A1", b"{}", (("shared", b"1"),))


@given(REPORTS, st.integers(0, 5), st.booleans())
def test_every_row_that_did_not_arrive_is_kept_and_no_other(reports, unsent, resend_unknown):
    kept = []
    keep = lambda message, **facts: kept.append((message, facts))  # noqa: E731
    ledger = Ledger(resend_unknown=resend_unknown, keep=keep)
    ledger.handed = len(reports)
    for code, partition, offset in reports:
        ledger.report(error_of(code), report_of(partition=partition, offset=offset))
    ledger.give_up()
    ledger.never_sent_messages([Message(b"B", b"{}")] * unsent)
    assert sum(not facts["unknown"] for _, facts in kept) == ledger.failed
    assert sum(facts["unknown"] for _, facts in kept) == ledger.unknown
    assert [message.key for message, _ in kept].count(b"B") == unsent
    assert all(facts["reason"] for _, facts in kept)


def test_a_row_that_is_given_up_is_kept_with_the_number_of_its_tries():
    kept = []
    ledger = Ledger(keep=lambda message, **facts: kept.append(facts["attempts"]))
    ledger.handed = 1
    refused = KafkaError(KafkaError.THROTTLING_QUOTA_EXCEEDED)
    ledger.report(refused, report_of())
    ledger.handed += 1
    ledger.sent_again()
    ledger.report(refused, report_of(), attempts=2)
    ledger.give_up()
    assert kept == [2]


def test_a_revoked_transaction_leaves_nothing_acknowledged():
    ledger = ledger_after([(0, 0, 1), (0, 1, 2)])
    ledger.revoke()
    assert (ledger.acked, ledger.failed, ledger.size_bytes, ledger.offsets) == (0, 2, 0, {})


def test_a_doubtful_transaction_leaves_its_rows_unknown():
    ledger = ledger_after([(0, 0, 1), (0, 1, 2)])
    ledger.doubt()
    assert (ledger.acked, ledger.unknown) == (0, 2)


@given(st.lists(st.floats(0, 2000), min_size=1, max_size=200), st.sampled_from([50, 90, 99, 100]))
def test_a_percentile_is_at_most_a_bucket_too_large(seconds, percent):
    latencies = Latencies()
    for each in seconds:
        latencies.add(each)
    ranked = sorted(seconds)
    exact_ms = ranked[max(ceil(len(ranked) * percent / 100) - 1, 0)] * 1000
    found = latencies.percentile_ms(percent)
    assert exact_ms * 0.999 <= found <= max(exact_ms, SMALLEST_MS) * 1.151
    assert latencies.average_ms() == pytest.approx(sum(seconds) * 1000 / len(seconds))


def test_no_acknowledgement_has_no_latency():
    assert (Latencies().average_ms(), Latencies().percentile_ms(99)) == (None, None)
