"""Settings become librdkafka's configuration from a fixed list; wrong ones say what is wrong."""

import pytest

from kafka_sink.config import KafkaSettings, client_config, pem, problems, producer_config, redacted
from queryexport.errors import ConfigurationError

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n"
FEATURES = {"sasl_plain", "sasl_scram", "sasl_oauthbearer"}


def make(**changes):
    return KafkaSettings(**{"name": "default", "bootstrap_servers": "kafka1:9092", **changes})


def wrong_fields(features=None, **changes):
    return [problem.field for problem in problems(make(**changes), features)]


SASL = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "username": "query_export",
    "password": "s3cret-canary",
}


@pytest.mark.parametrize(
    "servers",
    [
        "kafka1:9092",
        "kafka1.example.com:9092,kafka2.example.com:9093",
        "kafka1:9092, kafka2:9092",
        "10.0.0.1:9092",
        "[::1]:9092,[2001:db8::7]:9092",
    ],
)
def test_well_formed_servers_are_accepted(servers):
    assert wrong_fields(bootstrap_servers=servers) == []


@pytest.mark.parametrize(
    ("servers", "part"),
    [
        ("", "“”"),
        ("kafka1", "“kafka1”"),
        ("kafka1:9092,kafka2", "“kafka2”"),
        ("kafka1:9092,", "“”"),
        ("kafka1:0", "“kafka1:0”"),
        ("kafka1:70000", "“kafka1:70000”"),
        ("kafka1:9092;kafka2:9092", "“kafka1:9092;kafka2:9092”"),
        ("::1:9092", "“::1:9092”"),
        ("[::zz]:9092", "“[::zz]:9092”"),
        ("http://kafka1:9092", "“http://kafka1:9092”"),
    ],
)
def test_malformed_servers_are_refused_by_the_part_that_is_wrong(servers, part):
    [problem] = problems(make(bootstrap_servers=servers))
    assert problem.field == "bootstrap_servers"
    assert part in problem.message


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"security_protocol": "SASL_SSL"}, ["sasl_mechanism"]),
        ({**SASL, "username": ""}, ["username"]),
        ({**SASL, "password": ""}, ["password"]),
        ({**SASL, "sasl_mechanism": "OAUTHBEARER", "password": ""}, ["password"]),
        ({"security_protocol": "FTP"}, ["security_protocol"]),
        ({"compression": "rar"}, ["compression"]),
        ({"max_in_flight": 6}, ["max_in_flight"]),
        ({"retry_backoff_ms": 0}, ["retry_backoff_ms"]),
        ({"acks": "1"}, ["acks"]),
        ({"idempotence": False}, ["idempotence"]),
        ({"certificate_pem": CERTIFICATE}, ["client_key"]),
        ({"key_pem": KEY}, ["client_certificate"]),
        ({"ca_pem": "/etc/passwd"}, ["ca_certificate"]),
        ({"ca_pem": CERTIFICATE, "certificate_pem": CERTIFICATE, "key_pem": "${KEY}"}, []),
        (SASL, []),
    ],
)
def test_a_problem_is_reported_on_the_field_to_correct(changes, fields):
    assert wrong_fields(**changes) == fields


def test_a_mechanism_that_the_client_lacks_is_refused_with_that_reason():
    gssapi = {**SASL, "sasl_mechanism": "GSSAPI"}
    [problem] = problems(make(**gssapi), FEATURES)
    assert "built without GSSAPI" in problem.message
    assert wrong_fields({*FEATURES, "sasl_gssapi"}, **gssapi) == []


def test_settings_changed_behind_the_form_are_refused_when_they_are_used():
    with pytest.raises(ConfigurationError, match="Acks is always “all”"):
        client_config(make(acks="0"))


def test_a_producer_is_idempotent_bounded_and_sends_batches_of_the_items_size():
    config = producer_config(make(), batch_messages=500)
    assert config["acks"] == "all"
    assert config["enable.idempotence"] is True
    assert config["batch.num.messages"] == 500
    assert config["queue.buffering.max.kbytes"] == 65_536
    assert config["message.timeout.ms"] == 120_000
    assert (config["retry.backoff.ms"], config["retry.backoff.max.ms"]) == (100, 400)
    assert config["partitioner"] == "murmur2_random"


@pytest.mark.parametrize("size", [0, -1, 10_001])
def test_a_batch_size_out_of_range_is_refused(size):
    with pytest.raises(ConfigurationError, match="between 1 and 10000"):
        producer_config(make(), batch_messages=size)


def test_a_message_may_wait_at_least_as_long_as_one_request():
    config = producer_config(make(request_timeout_ms=300_000, linger_ms=100), batch_messages=1)
    assert config["message.timeout.ms"] == 300_100


def test_the_configuration_holds_nothing_but_the_allowed_keys():
    full = make(**SASL, ca_pem=CERTIFICATE, certificate_pem=CERTIFICATE, key_pem=KEY)
    assert set(producer_config(full, batch_messages=1)) == {
        "acks",
        "batch.num.messages",
        "batch.size",
        "bootstrap.servers",
        "client.id",
        "compression.type",
        "enable.idempotence",
        "enable.ssl.certificate.verification",
        "linger.ms",
        "max.in.flight.requests.per.connection",
        "message.max.bytes",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "request.timeout.ms",
        "retry.backoff.max.ms",
        "retry.backoff.ms",
        "sasl.mechanisms",
        "sasl.password",
        "sasl.username",
        "security.protocol",
        "socket.keepalive.enable",
        "socket.timeout.ms",
        "log_level",
        "ssl.ca.pem",
        "ssl.certificate.pem",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.pem",
    }


def test_unused_secrets_stay_out_of_the_configuration():
    assert "sasl.password" not in client_config(make(password="s3cret-canary"))


def test_secrets_are_absent_from_what_people_see():
    settings = make(**SASL, ca_pem=CERTIFICATE, certificate_pem=CERTIFICATE, key_pem=KEY)
    shown = f"{redacted(client_config(settings))} {settings!r} {settings}"
    assert "s3cret-canary" not in shown
    assert "BBBB" not in shown
    assert (
        settings.without_secrets("login with s3cret-canary\nfailed") == "login with •••••• failed"
    )


def test_a_pem_text_pasted_into_one_line_gets_its_lines_back():
    assert pem(KEY.replace("\n", " ")) == KEY
    assert pem(KEY.replace("\n", "")) == KEY


def test_a_chain_of_certificates_stays_a_chain():
    assert pem(CERTIFICATE * 2).count("BEGIN CERTIFICATE") == 2


def test_a_long_pem_body_is_wrapped_at_64_characters():
    wrapped = pem(f"-----BEGIN PRIVATE KEY-----{'A' * 100}-----END PRIVATE KEY-----")
    assert [len(line) for line in wrapped.splitlines()] == [27, 64, 36, 25]
