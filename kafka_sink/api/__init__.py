"""The HTTP API of the Kafka sink, to be mounted under /api/; its page is /api/docs."""

from django.contrib.auth.decorators import login_required
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger

from kafka_sink.api import consuming, errors, metrics, publishing
from kafka_sink.api.access import access
from kafka_sink.api.exact import ExactParser

api = NinjaAPI(
    title="Query Export",
    version="1",
    description="Publish to Kafka, look at clusters, and read what was delivered. Log in with the "
    "session of the admin, or send `Authorization: Bearer …` with a token from "
    "`manage.py create_api_token USER NAME`.",
    auth=access,
    parser=ExactParser(),
    docs=Swagger(settings={"persistAuthorization": False}),
    docs_decorator=login_required(login_url="admin:login"),
    urls_namespace="api",
)
errors.install(api)
for subject in (publishing, metrics, consuming):
    api.add_router("/kafka", subject.router, tags=["Kafka"])
