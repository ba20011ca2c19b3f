"""The admin page that publishes messages to a topic, and shows what became of them."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from kafka_sink import publishing
from kafka_sink.errors import UnknownTopic
from kafka_sink.forms import PublishForm
from kafka_sink.models import Delivery, KafkaConnection
from kafka_sink.publishing import Published
from queryexport.errors import ExportError

PAGE = "admin:kafka_sink_kafkaconnection_publish"

Render = Callable[[dict[str, Any]], HttpResponse]


def may_publish(request: HttpRequest) -> bool:
    return request.user.has_perm("kafka_sink.publish_message")


def publish(request: HttpRequest, connection: KafkaConnection, render: Render) -> HttpResponse:
    """The form, or what became of the messages that were sent with it.

    When all of them arrived, the answer leads to a page of its own, so that a reload sends nothing
    twice; otherwise the form keeps what was typed.
    """
    if request.method != "POST":
        return render(
            _context(request, connection, _empty(request), _asked_for(request, connection))
        )
    form = PublishForm(request.POST)
    published = _published(request, connection, form) if form.is_valid() else None
    if published and published.acked == published.total:
        query = {"topic": form.cleaned_data["topic"], "delivery": published.delivery}
        return HttpResponseRedirect(f"{reverse(PAGE, args=[connection.pk])}?{urlencode(query)}")
    delivery = Delivery.objects.get(pk=published.delivery) if published else None
    context = _context(request, connection, form, delivery)
    return render({**context, "undelivered": published.undelivered if published else ()})


def _published(
    request: HttpRequest, connection: KafkaConnection, form: PublishForm
) -> Published | None:
    """None when nothing was sent; the form says why."""
    topic = form.cleaned_data["topic"]
    try:
        return publishing.publish(
            connection.settings(), topic, messages=form.messages, user=request.user
        )
    except ExportError as error:
        form.add_error("topic" if isinstance(error, UnknownTopic) else None, error.message)
        return None


def _empty(request: HttpRequest) -> PublishForm:
    return PublishForm(initial={"topic": request.GET.get("topic", "")})


def _asked_for(request: HttpRequest, connection: KafkaConnection) -> Delivery | None:
    """The delivery that the page's address names, if this user published it here."""
    number = request.GET.get("delivery", "")
    if not (number.isascii() and number.isdecimal()):
        return None
    own = {"user_id": request.user.pk, "source": publishing.SOURCE, "connection": connection.name}
    return Delivery.objects.filter(pk=number, **own).first()


def _context(
    request: HttpRequest,
    connection: KafkaConnection,
    form: PublishForm,
    delivery: Delivery | None,
) -> dict[str, Any]:
    return {
        "title": f"Publish by the Kafka connection {connection}",
        "form": form,
        "delivery": delivery,
        "may_see_delivery": request.user.has_perm("kafka_sink.view_delivery"),
    }
