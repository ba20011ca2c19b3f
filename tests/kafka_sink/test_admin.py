"""The admin tests unsaved connections, shows topics and the ledger, and guards all of them."""

import re
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from kafka_sink.config import producer_config
from kafka_sink.models import ApiToken, Delivery, KafkaConnection
from queryexport.encryption import Secret
from tests.kafka_sink.conftest import TOPIC
from tests.kafka_sink.test_models import form_data

pytestmark = pytest.mark.django_db

CANARY = "s3cret-canary-7f"
PAGE = "admin:kafka_sink_kafkaconnection"
NEW = "/admin/kafka_sink/kafkaconnection/test/"


@pytest.fixture
def connection(embedded_broker):
    return KafkaConnection.objects.create(
        name="default",
        bootstrap_servers=embedded_broker.bootstrap_servers,
        password=Secret(CANARY),
    )


@pytest.fixture
def staff_client(client):
    """Logs a member of staff in who has the named permissions of this app only."""

    def log_in(*permissions):
        user = User.objects.create_user("staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return log_in


def steps(response):
    return re.findall(r'<th scope="row">([A-Za-z]+)</th>', response.content.decode())


def page(name, *arguments):
    return reverse(f"{PAGE}_{name}", args=arguments)


def test_the_values_of_a_new_connection_are_tested_without_saving_them(
    admin_client, embedded_broker
):
    data = form_data(name="unsaved", bootstrap_servers=embedded_broker.bootstrap_servers)
    response = admin_client.post(NEW, data)
    assert response.status_code == 200
    assert steps(response) == ["resolve", "connect", "TLS", "authenticate", "metadata"]
    content = response.content.decode()
    assert "The connection works: 1 broker" in content
    assert "1 broker, 1 topic to see." in content
    assert 'value="unsaved"' in content
    assert 'action="/admin/kafka_sink/kafkaconnection/add/"' in content
    assert not KafkaConnection.objects.exists()


def test_changed_values_of_a_stored_connection_are_tested_and_stay_unsaved(
    admin_client, connection
):
    data = form_data(bootstrap_servers="127.0.0.1:1", password=CANARY)
    response = admin_client.post(page("test", connection.pk), data)
    content = response.content.decode()
    assert steps(response) == ["resolve", "connect"]
    assert "The connection does not work" in content
    assert "127.0.0.1:1 connection refused" in content
    assert 'value="127.0.0.1:1"' in content
    assert CANARY not in content
    stored = connection.bootstrap_servers
    connection.refresh_from_db()
    assert connection.bootstrap_servers == stored


def test_a_mistake_in_the_form_is_shown_at_its_field_and_nothing_is_tested(admin_client):
    response = admin_client.post(NEW, form_data(bootstrap_servers="kafka1"))
    assert steps(response) == []
    assert "is no host:port" in response.content.decode()


def test_an_unset_variable_is_told_instead_of_tested(admin_client, monkeypatch):
    monkeypatch.delenv("KAFKA_TEST_PASSWORD", raising=False)
    data = form_data(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        username="u",
        password="${KAFKA_TEST_PASSWORD}",
    )
    response = admin_client.post(NEW, data)
    assert "KAFKA_TEST_PASSWORD is not set" in response.content.decode()


def test_the_button_is_there_for_those_who_may_test_and_change(staff_client, connection):
    client = staff_client("view_kafkaconnection", "change_kafkaconnection", "test_kafkaconnection")
    content = client.get(page("change", connection.pk)).content.decode()
    assert f'formaction="{page("test", connection.pk)}"' in content


@pytest.mark.parametrize(
    "permissions",
    [
        (),
        ("view_kafkaconnection", "test_kafkaconnection"),
        ("view_kafkaconnection", "change_kafkaconnection", "add_kafkaconnection"),
    ],
)
def test_a_test_needs_the_right_to_test_and_to_change(staff_client, connection, permissions):
    client = staff_client(*permissions)
    for where in (NEW, page("test", connection.pk)):
        assert client.post(where, form_data()).status_code == 403
    assert b"Test connection" not in client.get(page("change", connection.pk)).content


def test_a_test_is_never_run_by_opening_a_link(admin_client, connection):
    for where in (NEW, page("test", connection.pk)):
        assert admin_client.get(where).status_code == 405


def test_a_connection_that_is_gone_is_not_found(admin_client):
    for where in (page("topics", 999), page("topic", 999, TOPIC)):
        assert admin_client.get(where).status_code == 404
    assert admin_client.post(page("test", 999), form_data()).status_code == 404


def test_topics_and_messages_are_shown_to_those_who_may_read_them(
    admin_client, connection, settings_for
):
    producer = Producer(producer_config(settings_for(), batch_messages=10))
    producer.produce(TOPIC, b"<b>value</b>", b"key-1", 0)
    assert producer.flush(10) == 0
    assert TOPIC in admin_client.get(page("topics", connection.pk)).content.decode()
    where = page("topic", connection.pk, TOPIC)
    assert "3 partitions, at most 1 message" in admin_client.get(where).content.decode()
    read = admin_client.get(where, {"last": "5", "start": "latest"}).content.decode()
    assert "key-1" in read
    assert "&lt;b&gt;value&lt;/b&gt;" in read


def test_topics_need_the_view_permission_and_messages_one_of_their_own(staff_client, connection):
    client = staff_client("view_kafkaconnection")
    where = page("topic", connection.pk, TOPIC)
    content = client.get(where, {"last": "5", "start": "latest"}).content.decode()
    assert "3 partitions" in content
    assert "Messages</h2>" not in content
    client.logout()
    User.objects.all().delete()
    client = staff_client("consume_messages")
    assert client.get(where).status_code == 403
    assert client.get(page("topics", connection.pk)).status_code == 403


def test_a_topic_that_does_not_exist_is_told_on_its_page(admin_client, connection):
    content = admin_client.get(page("topic", connection.pk, "typo"), {"last": "5"}).content.decode()
    assert "The topic typo does not exist" in content


def test_the_ledger_is_listed_filtered_and_cannot_be_changed(
    admin_client, django_assert_max_num_queries
):
    for number in range(20):
        fields = {"topic": f"topic-{number % 2}", "source": "run", "connection": "default"}
        fields |= {"started_at": datetime(2026, 1, 18, 8, tzinfo=UTC), "duration_sec": 1.5}
        Delivery.objects.create(export_id=f"e-{number}", handed=3, acked=2, failed=1, **fields)
    with django_assert_max_num_queries(14):
        listed = admin_client.get("/admin/kafka_sink/delivery/?topic=topic-1")
    assert listed.content.decode().count("2 of 3") == 10
    pk = Delivery.objects.values_list("pk", flat=True)[0]
    opened = admin_client.get(f"/admin/kafka_sink/delivery/{pk}/change/")
    assert opened.status_code == 200
    assert b'name="_save"' not in opened.content
    assert admin_client.get("/admin/kafka_sink/delivery/add/").status_code == 403
    assert admin_client.post(f"/admin/kafka_sink/delivery/{pk}/delete/").status_code == 403


def test_a_token_can_be_seen_and_deleted_and_not_made_or_read(admin_client, admin_user):
    row, text = ApiToken.issue(admin_user, "sync")
    listed = admin_client.get("/admin/kafka_sink/apitoken/").content.decode()
    opened = admin_client.get(f"/admin/kafka_sink/apitoken/{row.pk}/change/").content.decode()
    assert "sync" in listed
    assert text not in listed + opened
    assert row.token_sha256 not in listed + opened
    assert admin_client.get("/admin/kafka_sink/apitoken/add/").status_code == 403
    admin_client.post(f"/admin/kafka_sink/apitoken/{row.pk}/delete/", {"post": "yes"})
    assert not ApiToken.objects.exists()


def test_the_pages_have_no_script_or_style_of_their_own(admin_client, connection):
    pages = (
        admin_client.get(page("topics", connection.pk)),
        admin_client.get(page("topic", connection.pk, TOPIC)),
        admin_client.get(page("publish", connection.pk)),
        admin_client.post(page("test", connection.pk), form_data()),
    )
    for response in pages:
        content = response.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", content)
        assert "<style" not in content
        assert " onclick=" not in content
