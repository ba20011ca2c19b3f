"""Reads the body of a call without rounding the numbers in it."""

from typing import cast

from django.http import HttpRequest
from ninja.parser import Parser
from ninja.types import DictStrAny

from kafka_sink.exact_json import exact


class ExactParser(Parser):
    def parse_body(self, request: HttpRequest) -> DictStrAny:
        return cast(DictStrAny, exact(request.body))
