#!/usr/bin/env bash
# Installs the real services that the tests run against, as far as they are missing.
#
# PostgreSQL, MariaDB, Redis and RabbitMQ come from Debian's packages, as do LibreOffice, 7-Zip, Samba
# and OpenSSH; Kafka's jars come from Maven by pom.xml.
# The daemons are not started here: the tests start their own, on loopback and in temporary folders.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
kafka="$root/var/services/kafka"
log="$root/var/log/services/install.log"
policy=/usr/sbin/policy-rc.d
# Debian keeps server binaries out of an ordinary account's PATH.
PATH="$PATH:/usr/sbin:/sbin"

rm -f "$log"

say() { printf 'services: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# Package managers print hundreds of lines, which matter only when something went wrong.
logged() {
    mkdir -p "$(dirname "$log")"
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null && return
    tail -n 40 "$log" >&2
    die "'$*' failed; its last lines are above, all of them in ${log#"$root"/}." \
        "Put the cause right, then run this again."
}

has_postgresql() {
    { command -v initdb && command -v postgres; } >/dev/null ||
        compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

has_mariadb() { { command -v mariadbd && command -v mariadb-install-db; } >/dev/null; }

has_rabbitmq() { compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null; }

has_calc() {
    command -v soffice >/dev/null && compgen -G '/usr/lib/libreoffice/program/libsclo.so'
}

has_7zip() { command -v 7zz || command -v 7z; }

# The copy of pom.xml is written last, so it also says that the copying was finished.
has_kafka() {
    cmp -s "$here/pom.xml" "$kafka/pom.xml" && compgen -G "$kafka/libs/kafka_*.jar" >/dev/null
}

missing_packages() {
    has_postgresql || echo postgresql
    has_mariadb || echo mariadb-server
    command -v redis-server >/dev/null || echo redis-server
    has_rabbitmq || echo rabbitmq-server
    has_calc >/dev/null || echo libreoffice-calc
    has_7zip >/dev/null || echo 7zip
    command -v smbd >/dev/null || echo samba
    command -v sshd >/dev/null || echo openssh-server
    command -v java >/dev/null || echo openjdk-17-jre-headless
    has_kafka || command -v mvn >/dev/null || echo maven
}

# Debian starts a daemon as soon as its package is installed, unless this file forbids it.
forbid_autostart() {
    [ -e "$policy" ] && return
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
}

install_packages() {
    local packages=("$@")
    [ "$(id -u)" -eq 0 ] || die "missing: ${packages[*]}. Only root can install them; run" \
        "'apt-get install ${packages[*]}' as root, then this again."
    command -v apt-get >/dev/null || die "missing: ${packages[*]}. There is no apt-get here;" \
        "install them by this system's own means, then run this again."
    say "installing ${packages[*]}"
    forbid_autostart
    export DEBIAN_FRONTEND=noninteractive
    logged apt-get -qq update
    logged apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install "${packages[@]}"
}

install_kafka() {
    say "copying Kafka's jars to ${kafka#"$root"/}/libs"
    rm -rf "$kafka"
    mkdir -p "$kafka"
    logged mvn --batch-mode --quiet --file "$here/pom.xml" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$kafka/libs"
    cp "$here/pom.xml" "$kafka/pom.xml"
}

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"
has_kafka || install_kafka

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" -eq 0 ] || die "still missing after the installation: ${packages[*]}."
say "PostgreSQL, MariaDB, Redis, RabbitMQ, Kafka, LibreOffice, 7-Zip, Samba and OpenSSH are installed"
