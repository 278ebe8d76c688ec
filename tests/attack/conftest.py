# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every case here is an attack with a row in docs/threat-model.md and a negative control (lab.attack)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what lies beside the test files

from lab.attack import Control, row_of  # noqa: E402


@pytest.fixture
def control():
    return Control()


@pytest.fixture(autouse=True)
def has_row_and_control(request, control):
    """A row without a control, or a case without a row, is a failure."""
    assert row_of(request.node), "an attack says what it is: @attack(...)"
    yield
    call = getattr(request.node, "call_report", None)
    if call is None or call.passed:
        assert control.was_seen, "the negative control was not seen"


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.call_report = outcome.get_result()
