"""A service in trouble is asked a bounded number of times. Attack ATK-026."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.core.errors import StokerError
from stoker.keys.errors import InsecureLink, KeyDestroyed, VaultRefused, VaultUnreachable
from stoker.keys.vaults.patience import Patience, PatienceRules

RULES = PatienceRules(
    attempts=4,
    deadline_s=20,
    first_pause_s=0.5,
    longest_pause_s=1.5,
    first_rest_s=1,
    longest_rest_s=8,
)


class Service:
    """Answers with what `says` holds, and counts; time passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.says: Callable[[], StokerError | None] = lambda: None
        self.asked: list[float] = []
        self.slept: list[float] = []
        self.now_s = 100.0
        self.patience = Patience(
            RULES, monotonic=lambda: self.now_s, sleep=self.sleep, uniform=lambda low, high: high
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def ask(self, subject: str = "dataset/a#1") -> str:
        def call() -> str:
            self.asked.append(self.now_s)
            error = self.says()
            if error is not None:
                raise error
            return "a key"

        return self.patience.ask(subject, call)


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_service_that_answers_is_asked_once(service: Service) -> None:
    assert service.ask() == "a key"
    assert (len(service.asked), service.slept) == (1, [])


def test_a_service_that_comes_back_is_asked_until_then(service: Service) -> None:
    answers = iter([VaultUnreachable("down"), VaultUnreachable("down"), None])
    service.says = lambda: next(answers)
    assert service.ask() == "a key"
    assert service.slept == [0.5, 1.0]


def test_atk_026_a_service_that_stays_away_sees_a_bounded_number_of_requests(service: Service) -> None:
    """10,000 calls in ten minutes: one round of tries, then one round for each rest of up to 8 s."""
    service.says = lambda: VaultUnreachable("down")
    for _ in range(10_000):
        with pytest.raises(VaultUnreachable, match="down"):
            service.ask()
        service.now_s += 0.06
    spent_s = service.now_s - 100.0
    assert spent_s > 600
    assert 70 < len(service.asked) <= 4 * 4 + spent_s / 8
    assert service.slept[:3] == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("kind", [VaultRefused, InsecureLink])
def test_atk_026_an_expired_or_revoked_token_is_never_tried_again_by_itself(
    service: Service, kind: type[StokerError]
) -> None:
    service.says = lambda: kind("refused", hint="log in again")
    for _ in range(1000):
        with pytest.raises(kind, match="refused") as refused:
            service.ask()
        assert refused.value.hint == "log in again"
    assert (len(service.asked), service.slept) == (1, [])
    service.now_s += 1.1
    with pytest.raises(kind):
        service.ask()
    service.now_s += 1.1
    with pytest.raises(kind, match=r"not asked again for 0\.9 s"):
        service.ask()
    assert len(service.asked) == 2


def test_a_refusal_for_one_key_leaves_the_others_alone(service: Service) -> None:
    service.says = lambda: VaultRefused("refused")
    with pytest.raises(VaultRefused):
        service.ask("dataset/a#1")
    service.says = lambda: None
    assert service.ask("dataset/b#1") == "a key"
    with pytest.raises(VaultRefused):
        service.ask("dataset/a#1")
    service.now_s += 1.1
    assert service.ask("dataset/a#1") == "a key"
    assert service.ask("dataset/a#1") == "a key"


def test_after_a_rest_one_caller_tries_for_all(service: Service) -> None:
    service.says = lambda: VaultUnreachable("down")
    with pytest.raises(VaultUnreachable):
        service.ask()
    before = len(service.asked)
    service.now_s += 1.1

    def ask_within() -> StokerError | None:
        with pytest.raises(VaultUnreachable, match="not asked again"):
            service.patience.ask("dataset/b#1", lambda: pytest.fail("a second caller went through"))
        return None

    service.says = ask_within
    assert service.ask() == "a key"
    assert len(service.asked) == before + 1


def test_any_answer_ends_the_rest(service: Service) -> None:
    service.says = lambda: VaultUnreachable("down")
    with pytest.raises(VaultUnreachable):
        service.ask()
    service.now_s += 1.1
    service.says = lambda: KeyDestroyed("gone")
    for _ in range(3):
        with pytest.raises(KeyDestroyed):
            service.ask()
    service.says = lambda: None
    assert service.ask() == "a key"


def test_no_try_begins_after_the_deadline(service: Service) -> None:
    def slow() -> StokerError:
        service.now_s += 19.9
        return VaultUnreachable("slow")

    service.says = slow
    with pytest.raises(VaultUnreachable):
        service.ask()
    assert len(service.asked) == 1
