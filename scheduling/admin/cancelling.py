"""The admin page that asks before it cancels a run."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_http_methods

from queryexport.errors import ExportError
from queryexport.read_only import ReadOnlyAdmin
from scheduling import cancelling
from scheduling.models import SchedulingHistoryItem

NAME = "scheduling_schedulinghistoryitem"


class CancelPage(ReadOnlyAdmin):
    """The part of the history's admin that cancels runs."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.cancel)
        return [path("<int:object_id>/cancel/", view, name=f"{NAME}_cancel"), *super().get_urls()]

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.cancel_schedulinghistoryitem")

    @method_decorator(require_http_methods(["GET", "POST"]))
    def cancel(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Says what cancelling the run would do; a POST does it."""
        run = get_object_or_404(self.get_queryset(request), pk=object_id)
        if not (self.has_view_permission(request, run) and self.has_cancel_permission(request)):
            raise PermissionDenied
        if request.method == "POST":
            self._cancel(request, run)
            return redirect(f"admin:{NAME}_change", run.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Cancel run {run.pk}",
            "opts": self.opts,
            "run": run,
        }
        return TemplateResponse(
            request, "admin/scheduling/schedulinghistoryitem/cancel.html", context
        )

    def _cancel(self, request: HttpRequest, run: SchedulingHistoryItem) -> None:
        try:
            ended = cancelling.cancel(run, user=request.user)
        except ExportError as error:
            self.message_user(request, error.message, messages.ERROR)
            return
        words = "is cancelled" if ended else "will end within seconds; reload this page"
        self.message_user(request, f"Run {run.pk} {words}.", messages.SUCCESS)
