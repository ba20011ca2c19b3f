"""Who may publish does so from the admin: what arrived is told, and nothing is sent by mistake."""

import json
from html import unescape
from time import monotonic

import pytest
from confluent_kafka import KafkaError
from django.contrib.auth.models import Permission, User
from django.test import Client

from kafka_sink.models import Delivery, KafkaConnection
from kafka_sink.publishing import BATCH_BYTES, MESSAGE_BYTES, MOST_MESSAGES
from tests.kafka_sink.conftest import TOPIC

pytestmark = pytest.mark.django_db

SINGLE = "single"
MAY = ("view_kafkaconnection", "publish_message")


@pytest.fixture
def connection(embedded_broker):
    embedded_broker.create_topic(SINGLE, 1)
    servers = embedded_broker.bootstrap_servers
    return KafkaConnection.objects.create(name="default", bootstrap_servers=servers, linger_ms=5)


@pytest.fixture
def url(connection):
    return f"/admin/kafka_sink/kafkaconnection/{connection.pk}/publish/"


@pytest.fixture
def make_user():
    def make(*permissions, name="staff"):
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        return user

    return make


@pytest.fixture
def publish(admin_client, url):
    """Sends the form as an administrator, and gives the text of the page that comes in the end."""

    def send(**fields):
        response = admin_client.post(url, {"topic": SINGLE, **fields}, follow=True)
        assert response.status_code == 200
        return unescape(response.content.decode())

    return send


def line(key, value="x"):
    return json.dumps({"key": key, "value": value})


def test_a_message_arrives_as_it_was_typed_and_its_place_is_told(publish, read_topic, admin_user):
    text = '{"stato":  "CONSEGNATO", "peso": 12.50}\r\n'
    page = publish(key="ABC123456", value=text, headers='{"source": "admin"}')
    delivery = Delivery.objects.get()
    assert "1 of 1 message arrived in single" in page
    assert "partition 0, offset 0" in page
    assert f"/admin/kafka_sink/delivery/{delivery.pk}/change/" in page
    assert (delivery.user, delivery.acked, delivery.source) == (admin_user, 1, "api")
    [message] = read_topic(SINGLE)
    assert (message.key(), message.value()) == (b"ABC123456", text.replace("\r\n", "\n").encode())
    assert message.headers()[0] == ("source", b"admin")
    assert dict(message.headers())["export_id"] == delivery.export_id.encode()


def test_a_message_needs_no_key_and_its_text_no_json(publish, read_topic):
    assert "1 of 1 message arrived" in publish(value="[WARN] disk full", as_text="on")
    assert "1 of 1 message arrived" in publish(value="hello")
    assert [message.key() for message in read_topic(SINGLE)] == [None, None]
    assert {message.value() for message in read_topic(SINGLE)} == {b"[WARN] disk full", b"hello"}


def test_json_lines_arrive_as_a_message_each_with_every_digit(publish, read_topic):
    lines = ['{"key": "A", "value": {"peso": 12.50}}', "", '{"key": null, "value": "plain"}']
    page = publish(lines="\r\n".join(lines), headers='{"source": "admin"}')
    assert "2 of 2 messages arrived" in page and "offsets 0 to 1" in page
    found = {message.key(): message.value() for message in read_topic(SINGLE)}
    assert found == {b"A": b'{"peso":12.50}', None: b"plain"}
    assert all(message.headers()[0] == ("source", b"admin") for message in read_topic(SINGLE))


def test_a_reload_after_success_sends_nothing_again(admin_client, url, read_topic):
    sent = admin_client.post(url, {"topic": SINGLE, "value": "once"})
    assert sent.status_code == 302
    for _ in range(2):
        shown = admin_client.get(sent.url).content.decode()
        assert "1 of 1 message arrived" in shown and f'value="{SINGLE}"' in shown
    assert len(read_topic(SINGLE)) == Delivery.objects.count() == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Enter either a value or JSON Lines."),
        ({"value": "x", "lines": line("A")}, "Enter either a value or JSON Lines."),
        ({"value": '{"a": }'}, "This is no JSON: expecting value at column 7."),
        ({"value": '{"a": NaN}'}, "NaN is no JSON"),
        ({"value": "x", "headers": "[1]"}, "Enter an object of texts"),
        ({"value": "x", "headers": '{"a": 1}'}, "Enter an object of texts"),
        ({"value": "x", "headers": "{"}, "This is no JSON"),
        ({"value": "x", "headers": '{"row": "1"}'}, "The header row is added"),
        ({"value": "x", "topic": "no blanks"}, "Enter letters, digits, dots"),
        ({"value": "x", "topic": ""}, "This field is required."),
        ({"key": "A", "lines": line("A")}, "each of the JSON Lines has its own key"),
        ({"value": "x" * (MESSAGE_BYTES + 1)}, f"has {MESSAGE_BYTES + 1} bytes; the most is"),
        ({"lines": (line("A") + "\n") * (MOST_MESSAGES + 1)}, "10001 messages; the most is 10000"),
        (
            {"lines": (line("A", "x" * 900_000) + "\n") * 12},
            f"bytes; the most is {BATCH_BYTES}. Send fewer.",
        ),
        ({"lines": "[" * 100_000}, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_sent(publish, fields, words):
    page = publish(**fields)
    assert words in page
    assert "Nothing was sent" in page
    assert not Delivery.objects.exists()


def test_each_wrong_line_is_named_and_the_text_is_kept(publish):
    wrong = [
        line("A"),
        "{",
        line(5),
        '{"key": "B"}',
        '{"value": 1, "topic": "t"}',
        r'{"value": "\ud800"}',
    ]
    page = publish(lines="\n".join(wrong))
    assert "Line 1" not in page
    assert "Line 2: This is no JSON: expecting property name" in page
    assert "Line 3: The key has to be a text in quotes, or null." in page
    assert "Line 4: Enter" in page and "Line 5: Enter" in page
    assert "Line 6: This cannot be sent: not valid Unicode" in page
    assert line("A") in page
    assert not Delivery.objects.exists()


def test_of_many_wrong_lines_ten_are_named(publish):
    page = publish(lines="wrong\n" * 25)
    assert "Line 10: " in page and "Line 11: " not in page
    assert "And 15 more like these." in page


def test_an_unknown_topic_is_told_at_its_field(publish):
    page = publish(topic="typo", value="x")
    assert "The topic typo does not exist" in page and "Nothing was sent" in page
    assert not Delivery.objects.exists()


def test_a_refused_message_is_told_with_its_reason_and_stays_in_the_form(publish, embedded_broker):
    embedded_broker.refuse_next(KafkaError.INVALID_RECORD)
    page = publish(key="E1", value="kept text")
    assert "0 of 1 message arrived" in page
    assert "INVALID_RECORD" in page and "<td>E1</td>" in page
    assert "kept text" in page
    assert (Delivery.objects.get().failed, Delivery.objects.get().acked) == (1, 0)


def test_an_unset_variable_of_the_connection_is_told(publish, connection, monkeypatch):
    monkeypatch.delenv("KAFKA_TEST_PASSWORD", raising=False)
    connection.password = "${KAFKA_TEST_PASSWORD}"
    connection.save()
    assert "KAFKA_TEST_PASSWORD is not set" in publish(value="x")


@pytest.mark.slow
def test_brokers_that_are_down_are_told_within_the_limit(publish, embedded_broker):
    embedded_broker.down()
    started = monotonic()
    page = publish(value="x")
    assert "cannot be reached" in page and "Nothing was sent" in page
    assert monotonic() - started < 15


@pytest.mark.parametrize("permissions", [(), MAY[:1], MAY[1:], ("change_kafkaconnection",)])
def test_publishing_needs_its_permission_and_the_sight_of_the_connection(
    client, make_user, url, permissions
):
    client.force_login(make_user(*permissions))
    assert client.get(url).status_code == 403
    assert client.post(url, {"topic": SINGLE, "value": "x"}).status_code == 403
    assert not Delivery.objects.exists()


def test_the_link_is_there_for_those_who_may_publish(client, make_user, connection, url):
    pages = (url.replace("publish/", "change/"), url.replace("publish/", f"topics/{TOPIC}/"))
    client.force_login(make_user(*MAY))
    assert all(url in client.get(page).content.decode() for page in pages)
    client.force_login(make_user("view_kafkaconnection", name="reader"))
    assert not any(url in client.get(page).content.decode() for page in pages)


def test_nobody_sees_what_another_published_by_guessing_its_number(client, make_user, url, publish):
    publish(value="x")
    number = Delivery.objects.get().pk
    client.force_login(make_user(*MAY))
    assert "arrived in" not in client.get(url, {"delivery": number}).content.decode()
    assert client.get(url, {"delivery": "9" * 40}).status_code == 200


def test_who_may_not_see_the_ledger_gets_the_number_without_a_link(client, make_user, url):
    client.force_login(make_user(*MAY))
    page = client.post(url, {"topic": SINGLE, "value": "x"}, follow=True).content.decode()
    assert f"Delivery {Delivery.objects.get().pk}" in page
    assert "/admin/kafka_sink/delivery/" not in page


def test_a_get_sends_nothing_and_a_post_needs_its_csrf_token(admin_client, admin_user, url):
    fields = {"topic": SINGLE, "value": "x"}
    assert admin_client.get(url, fields).status_code == 200
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin_user)
    assert strict.post(url, fields).status_code == 403
    assert admin_client.put(url).status_code == 405
    assert not Delivery.objects.exists()


def test_a_connection_that_is_gone_is_not_found(admin_client):
    assert admin_client.get("/admin/kafka_sink/kafkaconnection/999/publish/").status_code == 404
