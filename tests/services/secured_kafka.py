"""Starts an Apache Kafka broker that asks for TLS and a log-in, and obeys access rules."""

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from tests.services.kafka import KafkaBroker, launched, version
from tests.services.processes import LOOPBACK, ServiceError, free_ports
from tests.services.tls import Authority, ServerIdentity

SUPER_USER = "admin"
WRITER = "writer"
USERS = (SUPER_USER, WRITER)
OTHER_HOST = "kafka.example.com"
_RULE_SECONDS = 30
_SECURITY = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class SecuredKafka:
    """A SASL_SSL broker; it takes SCRAM-SHA-512 and PLAIN, and by itself allows nobody anything.

    `broker` acts as the super user. At `misnamed_servers` the same broker shows a certificate of
    the same authority, but for another host.
    """

    broker: KafkaBroker
    authority: Authority = field(repr=False)
    passwords: Mapping[str, str] = field(repr=False)
    misnamed_servers: str

    @property
    def bootstrap_servers(self) -> str:
        return self.broker.bootstrap_servers

    @property
    def version(self) -> str:
        return self.broker.version

    def allow(self, user: str, operation: AclOperation, topic: str) -> None:
        """Let the user do that with the topic, and return when the broker knows the rule."""
        rule = (
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        admin, binding, question = self.broker.admin(), AclBinding(*rule), AclBindingFilter(*rule)
        admin.create_acls([binding])[binding].result(_RULE_SECONDS)
        deadline = time.monotonic() + _RULE_SECONDS
        # The controller stores a rule first, and the broker hears of it a moment later.
        while not admin.describe_acls(question).result(_RULE_SECONDS):
            if time.monotonic() > deadline:
                raise ServiceError(f"The broker does not learn that {user} may use {topic}.")
            time.sleep(0.05)


@contextmanager
def running() -> Iterator[SecuredKafka]:
    """Give a secured broker that answers."""
    port, misnamed_port, controller_port = free_ports(3)
    servers = {"SECURED": f"{LOOPBACK}:{port}", "MISNAMED": f"{LOOPBACK}:{misnamed_port}"}
    authority = Authority()
    passwords = {user: secrets.token_urlsafe(16) for user in USERS}
    settings = {
        **_listeners(servers, f"{LOOPBACK}:{controller_port}"),
        **_tls(authority, {"secured": (LOOPBACK, "localhost"), "misnamed": (OTHER_HOST,)}),
        **_log_in(passwords, servers),
        **_access_rules(),
    }
    broker = KafkaBroker(
        servers["SECURED"], version(), client=_super_client(authority, passwords[SUPER_USER])
    )
    with launched(broker, "secured_kafka", settings, *_scram_users(passwords)) as started:
        yield SecuredKafka(started, authority, passwords, servers["MISNAMED"])


def _listeners(servers: Mapping[str, str], controller: str) -> dict[str, object]:
    places = {**servers, "CONTROLLER": controller}
    bound = ",".join(f"{name}://{place}" for name, place in places.items())
    protocols = ",".join(f"{name}:SASL_SSL" for name in servers)
    return {
        "controller.quorum.bootstrap.servers": controller,
        "listeners": bound,
        "advertised.listeners": bound,
        "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SECURED",
    }


def _tls(authority: Authority, hosts: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    settings: dict[str, object] = {
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": authority.pem,
    }
    for listener, names in hosts.items():
        settings |= _keystore(f"listener.name.{listener}", authority.identity(*names))
    return settings


def _keystore(prefix: str, identity: ServerIdentity) -> dict[str, object]:
    return {
        f"{prefix}.ssl.keystore.type": "PEM",
        f"{prefix}.ssl.keystore.certificate.chain": identity.chain_pem,
        f"{prefix}.ssl.keystore.key": identity.key_pem,
    }


def _log_in(passwords: Mapping[str, str], listeners: Mapping[str, str]) -> dict[str, object]:
    own = f'username="{SUPER_USER}" password="{passwords[SUPER_USER]}"'
    known = " ".join(f'user_{user}="{password}"' for user, password in passwords.items())
    settings: dict[str, object] = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
    }
    for listener in listeners:
        prefix = f"listener.name.{listener.lower()}"
        settings[f"{prefix}.scram-sha-512.sasl.jaas.config"] = (
            f"{_SECURITY}.scram.ScramLoginModule required {own};"
        )
        settings[f"{prefix}.plain.sasl.jaas.config"] = (
            f"{_SECURITY}.plain.PlainLoginModule required {own} {known};"
        )
    return settings


def _access_rules() -> dict[str, object]:
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        # Without a name one comes in by the controller's listener only, as the broker itself does.
        "super.users": f"User:{SUPER_USER};User:ANONYMOUS",
    }


def _scram_users(passwords: Mapping[str, str]) -> Iterator[str]:
    for user, password in passwords.items():
        yield f"--add-scram=SCRAM-SHA-512=[name={user},password={password}]"


def _super_client(authority: Authority, password: str) -> dict[str, str]:
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": SUPER_USER,
        "sasl.password": password,
        "ssl.ca.pem": authority.pem,
    }
