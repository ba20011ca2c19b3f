"""What the API answers when it can't do as asked: a status, the error, and the next step."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from pydantic import Field

from kafka_sink.api.access import NoPermission
from kafka_sink.errors import UnknownTopic
from queryexport.errors import ConfigurationError, ExportError

NO_KEY = "No valid log-in came with this call."
FIELDS_SHOWN = 5


class Problem(Schema):
    """The body of every answer that is no success."""

    error: str = Field(examples=["The topic typo does not exist on “default”."])
    next: str = Field(examples=["Check the name, or create the topic."])


PROBLEMS: Mapping[frozenset[int], type[Problem]] = {
    frozenset({401, 403, 404, 413, 422, 502, 503}): Problem
}


class ApiProblem(Exception):
    """A refusal with its status, decided by a view's service."""

    def __init__(self, status: HTTPStatus, error: str, next_step: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.next_step = next_step


def install(api: NinjaAPI) -> None:
    """Every error that a call can end with gets its body."""

    def answer(request: HttpRequest, error: Any) -> HttpResponse:
        problem = described(error)
        body = {"error": problem.error, "next": problem.next_step}
        return api.create_response(request, body, status=problem.status)

    kinds = (ApiProblem, NoPermission, ExportError, RequestDataTooBig)
    for kind in (*kinds, AuthenticationError, ValidationError, HttpError):
        api.add_exception_handler(kind, answer)


def described(error: Exception) -> ApiProblem:
    match error:
        case ApiProblem():
            return error
        case AuthenticationError():
            return ApiProblem(
                HTTPStatus.UNAUTHORIZED,
                NO_KEY,
                "Send “Authorization: Bearer …” with a valid token, or log in to the admin.",
            )
        case NoPermission():
            return ApiProblem(
                HTTPStatus.FORBIDDEN,
                f"Your user may not do this: the permission {error.permission} is missing.",
                "Ask an administrator for it.",
            )
        case RequestDataTooBig():
            return ApiProblem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "The request is larger than this server takes.",
                "Send fewer or smaller messages in one call.",
            )
        case ValidationError():
            return _invalid(error.errors)
        case ExportError():
            return _export_error(error)
        case HttpError():
            return _http_error(error)
    raise error


def _invalid(errors: list[dict[str, Any]]) -> ApiProblem:
    """Names the fields and never repeats what was sent, which may hold a secret."""
    shown = []
    for each in errors[:FIELDS_SHOWN]:
        place = ".".join(str(part) for part in each["loc"][1:] if part != "body") or "body"
        shown.append(f"{place}: {each['msg']}")
    more = f"; and {len(errors) - FIELDS_SHOWN} more" if len(errors) > FIELDS_SHOWN else ""
    return ApiProblem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"The request is not valid. {'; '.join(shown)}{more}",
        "Correct these fields; /api/docs describes them.",
    )


def _export_error(error: ExportError) -> ApiProblem:
    match error:
        case UnknownTopic():
            status, next_step = HTTPStatus.NOT_FOUND, "Check the topic's name, or create it."
        case ConfigurationError():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            next_step = "Correct what the error names, then call again."
        case _ if error.retryable:
            status, next_step = HTTPStatus.SERVICE_UNAVAILABLE, "Try again later."
        case _:
            status = HTTPStatus.BAD_GATEWAY
            next_step = "Test the Kafka connection, and correct what its first failed step says."
    return ApiProblem(status, error.message, next_step)


def _http_error(error: HttpError) -> ApiProblem:
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.FORBIDDEN:
        next_step = "Send the CSRF token of your session as X-CSRFToken, or use a bearer token."
        return ApiProblem(status, "The session's CSRF token is missing or wrong.", next_step)
    next_step = "Correct the request; /api/docs describes it."
    if status == HTTPStatus.BAD_REQUEST:
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    return ApiProblem(status, str(error), next_step)
