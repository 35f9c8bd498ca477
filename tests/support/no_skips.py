"""A pytest plug-in for CI: a skipped test is a failure, since it would hide a missing part."""

from __future__ import annotations

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> pytest.TestReport:  # the wrapper protocol yields, mypy does not check tests
    report: pytest.TestReport = yield  # type: ignore[misc]
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped; in CI everything runs."
    return report
