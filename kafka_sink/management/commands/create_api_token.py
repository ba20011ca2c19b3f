"""Makes a token for the API and shows it, this once."""

from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError, transaction
from django.utils import timezone

from kafka_sink.models import ApiToken


class Command(BaseCommand):
    help = "Makes a bearer token for a user's programs. It is shown once; only its hash is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="whose permissions the token has, for example warehouse")
        parser.add_argument("name", help="what uses it, for example warehouse-sync")
        parser.add_argument("--days", type=int, help="how long it is valid; for ever without")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(
                f"There is no user {options['user']}. Create the user in the admin first."
            )
        days = options["days"]
        expires_at = timezone.now() + timedelta(days=days) if days is not None else None
        try:
            with transaction.atomic():
                _, text = ApiToken.issue(user, options["name"], expires_at=expires_at)
        except IntegrityError as error:
            raise CommandError(
                f"{user} has a token {options['name']} already. Choose another name, or delete it "
                "in the admin."
            ) from error
        self.stdout.write(text)
        self.stderr.write("Keep it now: it is not shown again. Send it as Authorization: Bearer …")
