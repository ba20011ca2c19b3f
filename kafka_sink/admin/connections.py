"""Admin pages of Kafka connections: their test, topics, the quick consumer and publishing."""

from functools import partial
from typing import Any

from django.contrib import admin
from django.contrib.admin import helpers
from django.core.exceptions import PermissionDenied
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from kafka_sink import probe
from kafka_sink.admin.publish import may_publish, publish
from kafka_sink.forms import ConsumeForm, KafkaConnectionForm
from kafka_sink.models import KafkaConnection
from queryexport.errors import ExportError

TEMPLATES = "admin/kafka_sink/kafkaconnection"
PAGE = "admin:kafka_sink_kafkaconnection"


@admin.register(KafkaConnection)
class KafkaConnectionAdmin(admin.ModelAdmin):
    form = KafkaConnectionForm
    change_form_template = f"{TEMPLATES}/change_form.html"
    list_display = ("name", "bootstrap_servers", "security_protocol")
    list_filter = ("security_protocol",)
    search_fields = ("name", "bootstrap_servers", "description")
    fieldsets = (
        (None, {"fields": ("name", "description")}),
        ("Where", {"fields": ("bootstrap_servers", "security_protocol")}),
        ("Who", {"fields": ("sasl_mechanism", "username", "password")}),
        ("Certificates", {"fields": ("ca_certificate", "client_certificate", "client_key")}),
        (
            "Batches",
            {"fields": ("compression", "linger_ms", "batch_bytes", "max_request_bytes")},
        ),
        (
            "Guarantees",
            {
                "fields": (
                    "acks",
                    "idempotence",
                    "request_timeout_ms",
                    "retry_backoff_ms",
                    "max_in_flight",
                )
            },
        ),
    )

    def get_urls(self) -> list[URLPattern]:
        wrap, name = self.admin_site.admin_view, "kafka_sink_kafkaconnection"
        return [
            path("test/", wrap(self.test_new), name=f"{name}_test_new"),
            path("<int:pk>/test/", wrap(self.test_stored), name=f"{name}_test"),
            path("<int:pk>/topics/", wrap(self.topics), name=f"{name}_topics"),
            path("<int:pk>/topics/<str:topic>/", wrap(self.topic), name=f"{name}_topic"),
            path("<int:pk>/publish/", wrap(self.publish), name=f"{name}_publish"),
            *super().get_urls(),
        ]

    def has_test_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("kafka_sink.test_kafkaconnection")

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: KafkaConnection | None = None,
    ) -> HttpResponse:
        if self.has_test_permission(request):
            where = reverse(f"{PAGE}_test", args=[obj.pk]) if obj else reverse(f"{PAGE}_test_new")
            context["test_url"] = where
        context["may_publish"] = may_publish(request)
        return super().render_change_form(request, context, add, change, form_url, obj)

    @method_decorator([require_POST, sensitive_post_parameters()])
    def test_new(self, request: HttpRequest) -> HttpResponse:
        """Tests a connection that is not stored yet."""
        if not (self.has_test_permission(request) and self.has_add_permission(request)):
            raise PermissionDenied
        return self._tested(request, None)

    @method_decorator([require_POST, sensitive_post_parameters()])
    def test_stored(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Tests the values in the form of a stored connection, without storing them."""
        connection = self._connection(request, pk)
        may_change = self.has_change_permission(request, connection)
        if not (self.has_test_permission(request) and may_change):
            raise PermissionDenied
        return self._tested(request, connection)

    @method_decorator(require_GET)
    def topics(self, request: HttpRequest, pk: int) -> HttpResponse:
        connection = self._connection(request, pk)
        found, error = _or_error(lambda: probe.topics(connection.settings()))
        context = {"title": f"Topics of {connection}", "topics": found, "error": error}
        return self._page(request, connection, "topics", context)

    @method_decorator(require_GET)
    def topic(self, request: HttpRequest, pk: int, topic: str) -> HttpResponse:
        """A topic's partitions, and on request some of its messages."""
        connection = self._connection(request, pk)
        info, error = _or_error(lambda: probe.topic_info(connection.settings(), topic))
        context = {"title": f"Topic {topic}", "topic": topic, "info": info, "error": error}
        context["may_publish"] = may_publish(request)
        if request.user.has_perm("kafka_sink.consume_messages"):
            context |= _messages(request, connection, topic, readable=info is not None)
        return self._page(request, connection, "topic", context)

    @method_decorator([require_http_methods(["GET", "POST"]), sensitive_post_parameters()])
    def publish(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A form that sends messages to a topic, and what became of them."""
        connection = self._connection(request, pk)
        if not may_publish(request):
            raise PermissionDenied
        return publish(request, connection, partial(self._page, request, connection, "publish"))

    def _connection(self, request: HttpRequest, pk: int) -> KafkaConnection:
        connection: KafkaConnection | None = self.get_object(request, str(pk))
        if connection is None:
            raise Http404("There is no such Kafka connection.")
        if not self.has_view_permission(request, connection):
            raise PermissionDenied
        return connection

    def _tested(self, request: HttpRequest, connection: KafkaConnection | None) -> HttpResponse:
        form_class = self.get_form(request, connection, change=connection is not None)
        form = form_class(request.POST, request.FILES, instance=connection)
        result, error = None, ""
        if form.is_valid():
            result, error = _or_error(lambda: probe.probe(form.instance.settings()))
        context = {"probe": result, "probe_error": error}
        return self._form_again(request, form, connection, context)

    def _form_again(
        self,
        request: HttpRequest,
        form: ModelForm,
        connection: KafkaConnection | None,
        extra: dict[str, Any],
    ) -> HttpResponse:
        """The change form with the values that were sent; its Save goes where it always goes."""
        fieldsets: Any = self.get_fieldsets(request, connection)
        admin_form = helpers.AdminForm(form, list(fieldsets), {}, (), model_admin=self)
        stored = [connection.pk] if connection else []
        action = "change" if connection else "add"
        context = {
            **self.admin_site.each_context(request),
            **extra,
            "title": "Connection test",
            "adminform": admin_form,
            "object_id": connection.pk if connection else None,
            "original": connection,
            "is_popup": False,
            "media": self.media + admin_form.media,
            "inline_admin_formsets": [],
            "errors": helpers.AdminErrorList(form, []),
        }
        return self.render_change_form(
            request,
            context,
            add=connection is None,
            change=connection is not None,
            form_url=reverse(f"{PAGE}_{action}", args=stored),
            obj=connection,
        )

    def _page(
        self, request: HttpRequest, connection: KafkaConnection, name: str, context: dict[str, Any]
    ) -> HttpResponse:
        common = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "connection": connection,
        }
        return TemplateResponse(request, f"{TEMPLATES}/{name}.html", {**common, **context})


def _messages(
    request: HttpRequest, connection: KafkaConnection, topic: str, *, readable: bool
) -> dict[str, Any]:
    """The form of the quick consumer and, once it was sent, what it found."""
    asked = "last" in request.GET
    form = ConsumeForm(request.GET if asked else None)
    if not (asked and readable and form.is_valid()):
        return {"form": form}
    wanted = {"last": form.cleaned_data["last"], "start": form.cleaned_data["start"]}
    sample, error = _or_error(lambda: probe.consume(connection.settings(), topic, **wanted))
    return {"form": form, "sample": sample, "sample_error": error}


def _or_error(look: Any) -> tuple[Any, str]:
    """What `look` finds, or None and the error that an operator reads."""
    try:
        return look(), ""
    except ExportError as error:
        return None, error.message
