"""How supervising a run ended, and why, in words for a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.core.isolation import Isolation
from stoker.fleet.charge import Charge
from stoker.fleet.errors import CrashLoop, RankFailed, RestartBudgetSpent
from stoker.fleet.run_state import CauseKind, EndRun, Phase


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed, as a person sees it; `exit_code` is the process's own."""

    error_id: str
    message: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, error: StokerError) -> RunError:
        return cls(error.id, error.message, error.hint, error.exit_code)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How supervising ended. `error` is None unless the run failed."""

    outcome: Phase
    error: RunError | None
    isolation: Isolation


def explain(
    end: EndRun,
    errors: Mapping[int, RunError],
    refusal: StokerError | None,
    charge: Charge,
    attempt: int,
) -> RunError | None:
    """Why the run failed, None when it did not; `errors` holds what ranks of the last attempt reported."""
    cause = end.cause
    if end.outcome is not Phase.FAILED or cause is None:
        return None
    if cause.kind is CauseKind.REFUSED and refusal is not None:
        return RunError.of(refusal)
    known = errors.get(cause.rank)
    folder = charge.folder
    log = folder.agent_log(attempt) if cause.rank < 0 else folder.rank_log(attempt, cause.rank)
    hint = f"See {log}."
    if end.budget_spent:
        said = f" It said: {known.message}" if known is not None else ""
        budget = charge.policy.restarts
        message = f"The run failed more often than its {budget} restarts allow; at last, {cause}.{said}"
        if end.failures_in_row >= charge.policy.row_limit:
            row = f"The run failed {end.failures_in_row} times in a row without getting further"
            return RunError.of(CrashLoop(f"{row}; at last, {cause}.{said}", hint=hint))
        return RunError.of(RestartBudgetSpent(message, hint=hint))
    if known is not None:
        return known
    return RunError.of(RankFailed(f"The run cannot go on: {cause}.", hint=hint))
