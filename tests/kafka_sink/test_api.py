"""The API does what its contract says, for those who may, and tells nobody a secret."""

import json
import re
from datetime import timedelta
from io import StringIO
from time import monotonic

import pytest
from confluent_kafka import KafkaError
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from kafka_sink.deliveries.verification import verify
from kafka_sink.models import ApiToken, Delivery, KafkaConnection
from queryexport.encryption import Secret
from tests.kafka_sink.conftest import PARTITIONS, TOPIC

pytestmark = pytest.mark.django_db

CANARY = "s3cret-canary-7f"
MESSAGE = {"topic": TOPIC, "key": "ABC123456", "value": {"stato": "CONSEGNATO"}}
BATCH = {"topic": TOPIC, "messages": [{"key": "A", "value": "one"}, {"key": "B", "value": [2]}]}
CALLS = [
    ("POST", "test-connection", {"connection_name": "default"}, "test_kafkaconnection"),
    ("POST", "publish", MESSAGE, "publish_message"),
    ("POST", "publish-batch", BATCH, "publish_message"),
    ("GET", "metrics", None, "view_delivery"),
    ("GET", "metrics/summary", None, "view_delivery"),
    ("GET", "metrics/hourly", None, "view_delivery"),
    ("GET", f"metrics/topic/{TOPIC}", None, "view_delivery"),
    ("GET", "connections", None, "view_kafkaconnection"),
    ("GET", "topics", None, "view_kafkaconnection"),
    ("GET", f"topics/{TOPIC}", None, "view_kafkaconnection"),
    ("GET", f"consume?topic={TOPIC}", None, "consume_messages"),
]
every_call = pytest.mark.parametrize(
    ("method", "path", "body", "permission"), CALLS, ids=lambda value: str(value)[:20]
)


@pytest.fixture
def user():
    return User.objects.create_user("warehouse", password="irrelevant")


@pytest.fixture
def call(user):
    """Calls the API with a token of the user, who gets the permissions that are named."""

    def make(method, path, body=None, *, permissions=(), token=None):
        wanted = Permission.objects.filter(
            codename__in=permissions, content_type__app_label="kafka_sink"
        )
        user.user_permissions.set(wanted)
        token = token or ApiToken.issue(user, f"t{ApiToken.objects.count()}")[1]
        return send(Client(), method, path, body, authorization=f"Bearer {token}")

    return make


@pytest.fixture
def connection(embedded_broker):
    return KafkaConnection.objects.create(
        name="default",
        bootstrap_servers=embedded_broker.bootstrap_servers,
        password=Secret(CANARY),
        client_certificate="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        client_key=Secret(f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"),
        linger_ms=5,
    )


def send(client, method, path, body=None, **headers):
    content = None if body is None else json.dumps(body)
    return client.generic(
        method, f"/api/kafka/{path}", content or "", "application/json", headers=headers
    )


def problem(response, status):
    assert response.status_code == status, response.content
    body = response.json()
    assert set(body) == {"error", "next"}
    assert all(body.values())
    return body["error"]


@every_call
def test_nobody_gets_an_answer_without_a_log_in(method, path, body, permission):
    assert "log-in" in problem(send(Client(), method, path, body), 401)


@every_call
def test_a_user_without_the_permission_is_told_which_one(call, method, path, body, permission):
    others = {each[3] for each in CALLS} - {permission}
    error = problem(call(method, path, body, permissions=others), 403)
    assert f"kafka_sink.{permission}" in error


@every_call
def test_a_user_with_the_permission_gets_an_answer_without_secrets(
    call, connection, method, path, body, permission
):
    response = call(method, path, body, permissions=[permission])
    assert response.status_code == 200, response.content
    assert CANARY not in response.content.decode()


def test_a_token_is_shown_once_and_only_its_hash_is_kept(user, call):
    output = StringIO()
    call_command("create_api_token", "warehouse", "sync", stdout=output, stderr=StringIO())
    token = output.getvalue().strip()
    row = ApiToken.objects.get(name="sync")
    assert token not in str(vars(row))
    response = call("GET", "metrics", permissions=["view_delivery"], token=token)
    assert response.status_code == 200
    row.refresh_from_db()
    assert row.last_used_at is not None


def test_a_second_token_of_one_name_and_one_for_nobody_are_refused(user):
    arguments = {"stdout": StringIO(), "stderr": StringIO()}
    call_command("create_api_token", "warehouse", "sync", **arguments)
    with pytest.raises(CommandError, match="has a token sync already"):
        call_command("create_api_token", "warehouse", "sync", **arguments)
    with pytest.raises(CommandError, match="There is no user ghost"):
        call_command("create_api_token", "ghost", "sync", **arguments)


def test_a_wrong_an_expired_and_an_inactive_users_token_are_refused(user, call):
    problem(call("GET", "metrics", token="qe_wrong"), 401)
    past = timezone.now() - timedelta(seconds=1)
    problem(call("GET", "metrics", token=ApiToken.issue(user, "old", expires_at=past)[1]), 401)
    token = ApiToken.issue(user, "sync")[1]
    User.objects.filter(pk=user.pk).update(is_active=False)
    problem(call("GET", "metrics", token=token), 401)


def test_a_refused_token_is_not_saved_by_a_session(admin_client):
    response = send(admin_client, "GET", "metrics", authorization="Bearer qe_wrong")
    problem(response, 401)


def test_a_session_needs_its_csrf_token_to_post_and_none_to_read(admin_user, connection):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert send(client, "GET", "metrics").status_code == 200
    assert "CSRF" in problem(send(client, "POST", "publish", MESSAGE), 403)
    client.get("/admin/password_change/")
    token = client.cookies["csrftoken"].value
    response = send(client, "POST", "publish", MESSAGE, **{"x-csrftoken": token})
    assert response.status_code == 200


def test_a_published_message_is_in_the_topic_where_the_answer_says(call, connection, read_topic):
    answer = call("POST", "publish", MESSAGE, permissions=["publish_message"]).json()
    [message] = read_topic()
    assert (message.key(), message.value()) == (b"ABC123456", b'{"stato":"CONSEGNATO"}')
    assert (message.partition(), message.offset()) == (answer["partition"], answer["offset"])
    assert answer["success"] is True


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ('{"a": 12345678901234567890.123456789}', '{"a":12345678901234567890.123456789}'),
        ('{"a": 1.10, "b": 123456789012345678901234567890}',) * 2,
        ('"{ as it is }"', "{ as it is }"),
        ('"è"', "è"),
        ("[true, null, 1]", "[true,null,1]"),
    ],
)
def test_a_value_keeps_every_digit_and_character(connection, user, read_topic, sent, stored):
    assert publish_text(user, sent).status_code == 200
    assert read_topic()[0].value().decode() == stored.replace(", ", ",").replace(": ", ":")


@pytest.mark.parametrize("text", ["NaN", "1e999999999", r'"\ud800"', r'["\ud800"]', "[" * 5000])
def test_a_value_that_cannot_be_written_is_refused(connection, user, text):
    problem(publish_text(user, text), 422)


def publish_text(user, value):
    user.user_permissions.set(Permission.objects.filter(codename="publish_message"))
    return Client().post(
        "/api/kafka/publish",
        f'{{"topic": "{TOPIC}", "value": {value}}}',
        content_type="application/json",
        headers={"authorization": f"Bearer {ApiToken.issue(user, 'raw')[1]}"},
    )


def test_a_publish_is_in_the_ledger_under_its_user_and_can_be_verified(
    call, connection, user, settings_for
):
    answer = call("POST", "publish-batch", BATCH, permissions=["publish_message"]).json()
    delivery = Delivery.objects.get(pk=answer["delivery"])
    assert (delivery.source, delivery.user, delivery.handed, delivery.acked) == ("api", user, 2, 2)
    assert delivery.latency_p99_ms > 0
    found = verify(delivery, settings_for())
    assert found.all_there and found.by_export_id and found.by_number


def test_a_batch_tells_how_many_arrived(call, connection, read_topic):
    answer = call("POST", "publish-batch", BATCH, permissions=["publish_message"]).json()
    assert (answer["success"], answer["total"], answer["succeeded"]) == (True, 2, 2)
    assert (answer["failed"], answer["unknown"], answer["errors"]) == (0, 0, [])
    assert sorted(message.value() for message in read_topic()) == [b"[2]", b"one"]


def test_a_batch_with_a_refused_message_tells_which_and_why(
    call, connection, embedded_broker, read_topic
):
    embedded_broker.create_topic("single", 1)
    embedded_broker.refuse_next(KafkaError.INVALID_RECORD)
    messages = [{"key": f"E{number}", "value": "x"} for number in range(3)]
    body = {"topic": "single", "messages": messages, "batch_size": 1}
    answer = call("POST", "publish-batch", body, permissions=["publish_message"]).json()
    assert (answer["success"], answer["failed"], answer["succeeded"]) == (False, 1, 2)
    [error] = answer["errors"]
    assert error["reason"].startswith("INVALID_RECORD")
    arrived = {message.key().decode() for message in read_topic("single")}
    assert {f"E{number}" for number in range(3)} - arrived == {error["key"]}
    assert Delivery.objects.get(pk=answer["delivery"]).failed == 1


def test_a_refused_message_is_an_error_and_in_the_ledger(call, connection, embedded_broker):
    embedded_broker.refuse_next(KafkaError.INVALID_RECORD)
    response = call("POST", "publish", MESSAGE, permissions=["publish_message"])
    assert "INVALID_RECORD" in problem(response, 502)
    assert (Delivery.objects.get().failed, Delivery.objects.get().acked) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"topic": ""}, "topic"),
        ({"topic": "no blanks"}, "topic"),
        ({"value": None}, "value"),
        ({"key": 5}, "key"),
    ],
)
def test_an_invalid_message_is_refused_by_field(call, changes, field):
    response = call("POST", "publish", {**MESSAGE, **changes}, permissions=["publish_message"])
    assert f"{field}: " in problem(response, 422)


@pytest.mark.parametrize("batch_size", [0, 10_001])
def test_a_batch_size_out_of_range_is_refused(call, batch_size):
    body = {**BATCH, "batch_size": batch_size}
    response = call("POST", "publish-batch", body, permissions=["publish_message"])
    assert "batch_size: " in problem(response, 422)


def test_text_that_is_no_json_and_an_empty_batch_are_refused(call, user):
    token = ApiToken.issue(user, "sync")[1]
    user.user_permissions.set(Permission.objects.filter(codename="publish_message"))
    response = Client().post(
        "/api/kafka/publish",
        "{",
        content_type="application/json",
        headers={"authorization": f"Bearer {token}"},
    )
    problem(response, 422)
    body = {**BATCH, "messages": []}
    problem(call("POST", "publish-batch", body, permissions=["publish_message"]), 422)


def test_messages_over_the_limits_are_refused_with_413(call, connection, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 20_000_000
    may = {"permissions": ["publish_message"]}
    large = {**MESSAGE, "value": "x" * 1_000_001}
    assert "1000000" in problem(call("POST", "publish", large, **may), 413)
    together = {**BATCH, "messages": [{"value": "x" * 900_000}] * 12}
    assert "10000000" in problem(call("POST", "publish-batch", together, **may), 413)
    many = {**BATCH, "messages": [{"value": "x"}] * 10_001}
    assert "10001 messages" in problem(call("POST", "publish-batch", many, **may), 413)


def test_a_request_over_the_server_s_limit_is_refused_with_413(call, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    body = {**MESSAGE, "value": "x" * 200}
    problem(call("POST", "publish", body, permissions=["publish_message"]), 413)


def test_an_unknown_connection_or_topic_is_404_and_named(call, connection, read_topic):
    may = {"permissions": ["publish_message", "view_kafkaconnection", "consume_messages"]}
    wrong = {**MESSAGE, "connection": "nowhere"}
    assert "“nowhere”" in problem(call("POST", "publish", wrong, **may), 404)
    wrong = {**MESSAGE, "topic": "typo"}
    assert "typo" in problem(call("POST", "publish", wrong, **may), 404)
    assert "typo" in problem(call("GET", "topics/typo", **may), 404)
    assert "typo" in problem(call("GET", "consume?topic=typo", **may), 404)
    topics = call("GET", "topics", **may).json()
    assert topics == [{"name": TOPIC, "partitions": PARTITIONS}]


@pytest.mark.slow
def test_brokers_that_are_down_are_503_within_the_limit(call, connection, embedded_broker):
    embedded_broker.down()
    started = monotonic()
    response = call("POST", "publish", MESSAGE, permissions=["publish_message"])
    assert "cannot be reached" in problem(response, 503)
    assert monotonic() - started < 15


def test_a_configuration_is_tested_without_being_stored(call, embedded_broker):
    body = {"configuration": {"bootstrap_servers": embedded_broker.bootstrap_servers}}
    answer = call("POST", "test-connection", body, permissions=["test_kafkaconnection"]).json()
    assert (answer["reachable"], answer["brokers"], answer["error"]) == (True, 1, "")
    assert answer["latency_ms"] > 0
    assert not KafkaConnection.objects.exists()


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"bootstrap_servers": "kafka1"}, "no host:port"),
        ({"bootstrap_servers": "a:1", "plugin.library.paths": "/tmp/x.so"}, "plugin.library.paths"),
        ({"bootstrap_servers": "a:1", "acks": 0}, "acks"),
        (
            {
                "bootstrap_servers": "a:1",
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "sasl_username": "u",
                "sasl_password": "${SECRET_KEY}",
            },
            "environment",
        ),
        (
            {
                "bootstrap_servers": "a:1",
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "GSSAPI",
                "sasl_password": CANARY,
            },
            "GSSAPI",
        ),
        ({"bootstrap_servers": "a:1", "sasl_password": [CANARY]}, "sasl_password"),
    ],
)
def test_a_configuration_that_is_not_allowed_is_refused(call, configuration, words):
    body = {"configuration": configuration}
    response = call("POST", "test-connection", body, permissions=["test_kafkaconnection"])
    assert words in problem(response, 422)
    assert CANARY not in response.content.decode()


def test_a_test_takes_a_name_or_a_configuration_and_not_both(call):
    may = {"permissions": ["test_kafkaconnection"]}
    problem(call("POST", "test-connection", {}, **may), 422)
    both = {"connection_name": "default", "configuration": {"bootstrap_servers": "a:1"}}
    problem(call("POST", "test-connection", both, **may), 422)


def test_metrics_count_what_was_published(call, connection):
    may = {"permissions": ["publish_message", "view_delivery"]}
    call("POST", "publish-batch", BATCH, **may)
    metrics = call("GET", "metrics?connection=default&period=1h", **may).json()
    assert (metrics["messages_sent"], metrics["success_rate"]) == (2, 1.0)
    assert metrics["bytes_sent"] == len("A" + "one" + "B" + "[2]")
    assert metrics["latency_average_ms"] > 0
    assert call("GET", "metrics?connection=other", **may).json()["messages_sent"] == 0
    summary = call("GET", "metrics/summary", **may).json()
    assert [row["topic"] for row in summary["topics"]] == [TOPIC]
    assert call("GET", "metrics/hourly", **may).json()[0]["messages_sent"] == 2
    assert call("GET", f"metrics/topic/{TOPIC}", **may).json()["totals"]["messages_sent"] == 2


def test_a_period_that_is_none_is_refused(call):
    response = call("GET", "metrics?period=soon", permissions=["view_delivery"])
    assert "period: " in problem(response, 422)


def test_topic_info_and_consume_show_what_is_in_the_topic(call, connection):
    may = {"permissions": ["publish_message", "view_kafkaconnection", "consume_messages"]}
    call("POST", "publish-batch", BATCH, **may)
    info = call("GET", f"topics/{TOPIC}", **may).json()
    assert (info["messages"], len(info["partitions"])) == (2, PARTITIONS)
    sample = call("GET", f"consume?topic={TOPIC}&last=1&start=earliest", **may).json()
    assert sample["complete"] is True
    assert len(sample["messages"]) == 1
    problem(call("GET", f"consume?topic={TOPIC}&last=101", **may), 422)
    problem(call("GET", f"consume?topic={TOPIC}&start=middle", **may), 422)


def test_the_api_s_page_is_served_from_this_host_to_people_who_are_logged_in(admin_client):
    assert Client().get("/api/docs").status_code == 302
    assert Client().get("/api/openapi.json").status_code == 302
    page = admin_client.get("/api/docs").content.decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources and all(source.startswith("/") for source in sources)
    paths = admin_client.get("/api/openapi.json").json()["paths"]
    expected = {
        f"/api/kafka/{path.split('?')[0]}".replace(TOPIC, "{topic}") for _, path, *_ in CALLS
    }
    assert expected <= set(paths)
