"""A Kafka connection guards its own rules, in the form and in the database."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from kafka_sink.forms import KafkaConnectionForm
from kafka_sink.models import KafkaConnection
from queryexport.encryption import Secret
from queryexport.errors import ConfigurationError

pytestmark = pytest.mark.django_db

SASL = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "username": "query_export",
    "password": Secret("s3cret-canary"),
}


def make_connection(**changes):
    fields = {"name": "default", "bootstrap_servers": "kafka1:9092"}
    return KafkaConnection(**{**fields, **changes})


def wrong_fields(connection):
    with pytest.raises(ValidationError) as caught:
        connection.full_clean()
    return set(caught.value.message_dict)


def form_data(**changes):
    form = KafkaConnectionForm()
    initial = {name: form.get_initial_for_field(field, name) for name, field in form.fields.items()}
    data = {name: value for name, value in initial.items() if value is not None}
    return {**data, "name": "default", "bootstrap_servers": "kafka1:9092", **changes}


def test_the_defaults_are_valid():
    make_connection().full_clean()
    make_connection(**SASL).full_clean()


def test_every_field_explains_itself():
    fields = [field for field in KafkaConnection._meta.fields if field.name != "id"]
    assert [field.name for field in fields if not field.help_text] == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bootstrap_servers": "kafka1"}, "bootstrap_servers"),
        ({**SASL, "sasl_mechanism": "GSSAPI"}, "sasl_mechanism"),
        ({**SASL, "password": Secret("")}, "password"),
        ({"acks": "1"}, "acks"),
        ({"idempotence": False}, "idempotence"),
        ({"max_in_flight": 6}, "max_in_flight"),
        ({"client_key": Secret("${KEY}")}, "client_certificate"),
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism"),
    ],
)
def test_a_mistake_is_shown_at_its_field(changes, field):
    assert field in wrong_fields(make_connection(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"bootstrap_servers": ""},
        {"security_protocol": "FTP"},
        {"sasl_mechanism": "MAGIC"},
        {"security_protocol": "SASL_SSL"},
        {"compression": "rar"},
        {"acks": "1"},
        {"idempotence": False},
        {"linger_ms": 10_001},
        {"max_in_flight": 6},
        {"max_in_flight": 0},
        {"batch_bytes": 1},
    ],
)
def test_the_database_refuses_what_the_form_refuses(changes):
    with pytest.raises(IntegrityError), transaction.atomic():
        make_connection(**changes).save()


def test_settings_resolve_a_reference_to_the_environment(monkeypatch):
    monkeypatch.setenv("KAFKA_TEST_PASSWORD", "from-the-environment")
    make_connection(**{**SASL, "password": Secret("${KAFKA_TEST_PASSWORD}")}).save()
    settings = KafkaConnection.objects.get().settings()
    assert settings.password == "from-the-environment"
    assert settings.sasl_mechanism == "SCRAM-SHA-512"


def test_a_reference_to_an_unset_variable_is_valid_to_store_and_refused_to_use(monkeypatch):
    monkeypatch.delenv("KAFKA_TEST_PASSWORD", raising=False)
    connection = make_connection(**{**SASL, "password": Secret("${KAFKA_TEST_PASSWORD}")})
    connection.full_clean()
    with pytest.raises(ConfigurationError, match="KAFKA_TEST_PASSWORD is not set"):
        connection.settings()


def test_a_stored_connection_stays_valid_and_shows_no_secret():
    make_connection(**SASL).save()
    connection = KafkaConnection.objects.get()
    connection.full_clean()
    assert "s3cret-canary" not in f"{connection} {connection.settings()!r} {vars(connection)!r}"


def test_the_form_keeps_a_stored_secret_when_it_is_left_blank():
    make_connection(**SASL).save()
    changes = {**SASL, "password": "", "username": "other"}
    form = KafkaConnectionForm(form_data(**changes), instance=KafkaConnection.objects.get())
    assert form.is_valid(), form.errors
    form.save()
    connection = KafkaConnection.objects.get()
    assert (connection.username, connection.password.reveal()) == ("other", "s3cret-canary")


def test_the_form_never_shows_a_stored_secret():
    make_connection(**SASL).save()
    assert "s3cret-canary" not in KafkaConnectionForm(instance=KafkaConnection.objects.get()).as_p()


def test_the_admin_lists_searches_and_opens_a_connection(admin_client):
    make_connection(**SASL).save()
    listed = admin_client.get("/admin/kafka_sink/kafkaconnection/?q=kafka1")
    assert b"SASL_SSL" in listed.content
    opened = admin_client.get(
        f"/admin/kafka_sink/kafkaconnection/{KafkaConnection.objects.get().pk}/change/"
    )
    assert opened.status_code == 200
    assert b"s3cret-canary" not in opened.content
