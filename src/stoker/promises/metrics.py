"""A report of the promises as Prometheus reads it. See docs/design/promises.md, "Watching"."""

from __future__ import annotations

from stoker.promises.promise import Standing, VerifyReport

_WORTH = {Standing.KEPT: 1, Standing.NOT_KEPT: 0}


def prometheus(report: VerifyReport, now_s: float) -> str:
    """The report in Prometheus' text format; a promise that was not tried has no sample of its own.

    `now_s` is when it was made, in seconds since the Unix epoch.
    """
    lines = [
        "# HELP stoker_promise_kept Whether the promise is kept (1) or not (0); absent when untried.",
        "# TYPE stoker_promise_kept gauge",
    ]
    lines += [
        f'stoker_promise_kept{{number="{each.number}"}} {_WORTH[each.standing]}'
        for each in report.promises
        if each.standing in _WORTH
    ]
    lines += [
        "# HELP stoker_promise_checks Things that were tried for the promise, by whether they held.",
        "# TYPE stoker_promise_checks gauge",
    ]
    for each in report.promises:
        held = sum(check.held for check in each.checks)
        lines.append(f'stoker_promise_checks{{number="{each.number}",held="true"}} {held}')
        lines.append(
            f'stoker_promise_checks{{number="{each.number}",held="false"}} {len(each.checks) - held}'
        )
    lines += [
        "# HELP stoker_verify_seconds How long the last verification took.",
        "# TYPE stoker_verify_seconds gauge",
        f"stoker_verify_seconds {report.seconds:.3f}",
        "# HELP stoker_verify_timestamp_seconds When the last verification ended.",
        "# TYPE stoker_verify_timestamp_seconds gauge",
        f"stoker_verify_timestamp_seconds {now_s:.3f}",
    ]
    return "\n".join(lines) + "\n"
