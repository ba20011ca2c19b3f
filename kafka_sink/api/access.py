"""Who may call what: a session with its CSRF token or a bearer token, and one permission a call."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.contrib.auth.models import User
from django.http import HttpRequest
from ninja.security import HttpBearer, SessionAuth

from kafka_sink.models import ApiToken

P = ParamSpec("P")
T = TypeVar("T")


class NoPermission(Exception):
    """The user is known and lacks a permission."""

    def __init__(self, permission: str) -> None:
        super().__init__(permission)
        self.permission = permission


class Bearer(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        user = ApiToken.owner(token)
        if user:
            request.user = user
        return user


class Session(SessionAuth):
    """Only for calls without an Authorization header: a refused token stays refused."""

    def __call__(self, request: HttpRequest) -> Any:
        if "Authorization" in request.headers or not request.user.is_authenticated:
            return None
        return super().__call__(request)


access = [Bearer(), Session()]


def needs(permission: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Lets a view run for users with the permission `kafka_sink.<permission>` only."""

    def decorate(view: Callable[P, T]) -> Callable[P, T]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            request: Any = args[0]
            if not request.user.has_perm(f"kafka_sink.{permission}"):
                raise NoPermission(f"kafka_sink.{permission}")
            return view(*args, **kwargs)

        return guarded

    return decorate
