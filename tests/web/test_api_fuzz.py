"""Schemathesis asks the interface for programs what its document allows, and what it does not, and compares
each answer with the document: an unknown status, header or field fails, as does a status from 500 on."""

import copy
import logging
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode

from pipeline.store.alerts import save_search
from pipeline.store.database import Database
from pipeline.web.openapi import document
from tests.support.fleet import Fleet
from tests.support.site_data import TOKEN, seed
from tests.support.steps import AT_LENGTH
from tests.web.test_api import app_of

EXAMPLES = 300 if AT_LENGTH else 5  # of each operation
OPERATOR = {"Authorization": f"Bearer {TOKEN}", "Test-Role": "operator"}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_as_the_document_says(
    fleet: Fleet, redis: Any, database: Database, mode: GenerationMode, caplog: pytest.LogCaptureFixture
) -> None:
    seed(fleet, redis)
    save_search(database, "fires", "fire")
    caplog.set_level(logging.ERROR)  # they log a lot themselves
    schema = schemathesis.openapi.from_dict(asked_of(mode))
    schema.app = app_of(fleet, redis, database)
    asked = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(asked) == sum(map(len, document()["paths"].values()))
    for operation in asked:
        if mode is GenerationMode.POSITIVE or _can_be_asked_wrongly(operation):
            withstand(operation, mode)


def _can_be_asked_wrongly(operation: Any) -> bool:
    """Whether it takes more than the header that every GET takes, of which no value is wrong."""
    return bool(operation.query or operation.path_parameters or operation.body)


def asked_of(mode: GenerationMode) -> dict[str, Any]:
    """The document for whoever is admitted, which the login decides. It cannot describe what is refused though its
    form is right: a cursor of another list."""
    given = copy.deepcopy(document())
    del given["security"]
    for methods in given["paths"].values():
        for operation in methods.values():
            if mode is GenerationMode.POSITIVE:
                kept = [one for one in operation["parameters"] if one["name"] != "cursor"]
                operation["parameters"] = kept
    return given


def withstand(operation: Any, mode: GenerationMode) -> None:
    """Ask for one operation many times."""

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=not AT_LENGTH,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(headers=OPERATOR)

    ask()
