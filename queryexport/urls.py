"""Every page is in the admin; programs use the API."""

from django.contrib import admin
from django.urls import path
from django.utils.module_loading import import_string
from django.views.generic import RedirectView

admin.site.site_header = admin.site.site_title = "Query Export"
admin.site.index_title = "Exports"

urlpatterns = [
    path("admin/", admin.site.urls),
    # By its name, as the settings name the apps: nothing here imports what lies above.
    path("api/", import_string("kafka_sink.api.api").urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
