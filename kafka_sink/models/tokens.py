"""Tokens by which programs use the API in the name of a user."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Self

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q
from django.utils import timezone

PREFIX = "qe_"
SECRET_BYTES = 32
# Noting every single use would cost a write per call.
USE_NOTED_EVERY = timedelta(minutes=1)


def digest(token: str) -> str:
    """What is kept of a token. It is 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode()).hexdigest()


class ApiToken(models.Model):
    """A bearer token of one user, with that user's permissions; only its hash is stored."""

    name = models.CharField(
        max_length=100, help_text="What uses the token, for example warehouse-sync."
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="api_tokens",
        help_text="Whose permissions the token has, for example warehouse.",
    )
    token_sha256 = models.CharField(
        "SHA-256 of the token",
        max_length=64,
        unique=True,
        help_text="The hash, for example e3b0c442…; the token itself was shown once.",
    )
    created_at = models.DateTimeField(
        auto_now_add=True, help_text="When it was made, for example 2026-01-18 08:00."
    )
    last_used_at = models.DateTimeField(
        null=True, blank=True, help_text="Last call, to the minute, for example 2026-01-18 08:00."
    )
    expires_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="From when on it is refused, for example 2027-01-18 08:00. Empty for never.",
    )

    class Meta:
        ordering = ["user", "name"]
        verbose_name = "API token"
        default_permissions = ("view", "delete")
        constraints = [
            models.UniqueConstraint(
                fields=["user", "name"],
                name="kafka_api_token_name_once_per_user",
                violation_error_message="This user has a token of that name; delete it first.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.user}"

    @classmethod
    def issue(
        cls, user: User, name: str, *, expires_at: datetime | None = None
    ) -> tuple[Self, str]:
        """A new token: the row, and the text that is shown this once and kept nowhere."""
        text = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        row = cls.objects.create(
            user=user, name=name, token_sha256=digest(text), expires_at=expires_at
        )
        return row, text

    @classmethod
    def owner(cls, text: str) -> User | None:
        """The active user whose valid token `text` is, noting the use; None for any other text."""
        now = timezone.now()
        valid = Q(expires_at=None) | Q(expires_at__gt=now)
        tokens = cls.objects.select_related("user").filter(valid, user__is_active=True)
        token = tokens.filter(token_sha256=digest(text)).first()
        if token is None:
            return None
        stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_NOTED_EVERY)
        cls.objects.filter(stale, pk=token.pk).update(last_used_at=now)
        return token.user
