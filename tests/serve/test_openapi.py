"""The OpenAPI document: what it says is so, by schemathesis, and every address of it answers."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from imprint.serve.openapi import interface

LEFT_OUT = ("positive_data_acceptance", "negative_data_rejection")  # random bytes are seldom an image
CASES = 30


def test_requests_made_from_the_document_get_the_answers_of_the_document(server):
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in LEFT_OUT]
    seen = set()

    for operation in schema.get_all_operations():

        @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(operation.ok().as_strategy())
        def ask(case):
            response = case.call()
            seen.add(response.status_code)
            case.validate_response(response, excluded_checks=checks)

        ask()
    assert 200 in seen
    assert max(seen) < 500


def test_the_page_of_the_interface_names_every_address(server):
    page = server.get("/docs").content.decode()
    document = server.get("/openapi.json").json
    assert document == interface(document["info"]["version"])
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
