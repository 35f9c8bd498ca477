"""The page as an attacker meets it, on the real server with real sockets; attacks 070, 072 and 074."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.core.ids import VersionId
from stoker.intake.review import request_review
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.ledger.access import create_token, revoke_token
from stoker.ledger.ledger import Ledger
from stoker.ledger.permissions import RULES
from stoker.ledger.records import ReviewState, Role, SourceRecord
from stoker.spec.recipe import PolicySpec
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from stoker.web import guards, server
from stoker.web.app import COOKIE, DOORS, make_app
from stoker.web.errors import PortTaken
from stoker.web.house import WebHouse

NASTY = "<script>alert(1)</script>${jndi:ldap://x}\x1b[31m"


@dataclass
class Served:
    """A running page; `tokens` by name of their owner."""

    url: str
    house: WebHouse
    tokens: dict[str, str]
    records: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @contextlib.contextmanager
    def browser(self, name: str | None = None) -> Iterator[httpx.Client]:
        """A browser that has logged in as `name`."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            if name is not None:
                assert client.post("/login", data={"token": self.tokens[name]}).status_code == 303
            yield client


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    clock, home = SystemClock(), Home(tmp_path / "home")
    home.prepare()
    with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, clock) as ledger:
        backend = open_backend(home.keys_dir.as_uri(), clock=clock, passphrase=None)
        store = ObjectStore.open(home.store_dir.as_uri())
        house = WebHouse(home, ledger, backend, store, NodeCache(home.cache_dir, store, 1 << 30), clock)
        tokens, records = {}, {}
        for name, role in (("asker", Role.RESEARCHER), ("judge", Role.REVIEWER), ("boss", Role.ADMIN)):
            create_identity(name, role, actor=None, ledger=ledger, backend=backend, clock=clock)
            record, tokens[name] = create_token(name, ["all"], 3600.0, by=None, ledger=ledger, clock=clock)
            records[name] = record.id
        record, tokens["narrow"] = create_token(
            "judge", ["look"], 3600.0, by=None, ledger=ledger, clock=clock
        )
        sock = server.listen(0)
        running = server.make_server(make_app(house, hosts=("127.0.0.1", "localhost"), secure=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}", house, tokens, records)
        finally:
            running.should_exit = True
            thread.join()
            backend.close()


def ask(served: Served, purpose: str = "research") -> str:
    """A request for a source, scanned; the id of its review."""
    house = served.house
    if not house.ledger.catalogue.sources():
        source = SourceRecord(
            "notes",
            VersionId("0" * 32),
            "1" * 64,
            "source/notes/0#1",
            3,
            100,
            {},
            "asker",
            house.clock.now_s(),
        )
        with house.ledger.act(actor="asker", action="import", subject="source/notes", detail={}) as catalogue:
            catalogue.add_source(source)
    (source,) = house.ledger.catalogue.sources()
    review = request_review(
        source,
        "2" * 64,
        PolicySpec(),
        purpose=purpose,
        requested_by="asker",
        valid_s=86_400.0,
        ledger=house.ledger,
        clock=house.clock,
    )
    return str(review.id)


def secret_in(page: str) -> str:
    found = re.search(r'name="form_secret" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def decide(browser: httpx.Client, review: str, *, verdict: str = "approve", **changes: str) -> httpx.Response:
    """Press a button of the review's own page; `changes` are what an attacker alters in the form."""
    page = browser.get(f"/reviews/{review}").text
    digest = re.search(r'name="digest" value="([0-9a-f]{64})"', page)
    form = {
        "form_secret": secret_in(page),
        "digest": digest[1] if digest else "0" * 64,
        "verdict": verdict,
        "reason": "seen",
    }
    return browser.post(f"/reviews/{review}/decide", data=form | changes)


def state(served: Served, review: str) -> ReviewState:
    return served.house.ledger.catalogue.review(review).state  # type: ignore[arg-type]


def raw(served: Served, request: bytes, wait_s: float = 20.0) -> bytes:
    """What the server answers to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait_s) as sock:
        sock.sendall(request)
        answer = b""
        while part := sock.recv(65_536):
            answer += part
        return answer


# -- what the page is for


def test_a_reviewer_approves_exactly_what_was_shown(served: Served) -> None:
    review = ask(served)
    with served.browser("judge") as judge:
        assert "notes" in judge.get("/").text
        assert decide(judge, review).status_code == 303
        page = judge.get(f"/reviews/{review}").text
    assert state(served, review) is ReviewState.APPROVED
    assert "decided by" in page and "judge" in page
    assert served.house.ledger.catalogue.review(review).decided_by == "judge"  # type: ignore[arg-type]


def test_an_approval_of_another_request_is_refused(served: Served) -> None:
    shown, other = ask(served), ask(served, "training")
    digest = served.house.ledger.catalogue.review(shown).request_digest  # type: ignore[arg-type]
    with served.browser("judge") as judge:
        answer = decide(judge, other, digest=digest)
        assert answer.status_code == 409
        assert "not the request that was shown" in answer.text
        assert decide(judge, other, digest="").status_code == 409
    assert state(served, other) is not ReviewState.APPROVED


def test_whoever_asked_cannot_decide_and_a_narrow_token_neither(served: Served) -> None:
    review = ask(served)
    with served.browser("asker") as asker:
        assert decide(asker, review).status_code in (403, 409)
    with served.browser("narrow") as narrow:
        assert decide(narrow, review).status_code == 403
    assert state(served, review) is not ReviewState.APPROVED


def test_every_route_has_its_deed_and_nothing_is_reached_without_a_login(served: Served) -> None:
    with served.browser() as nobody:
        for name, door in DOORS.items():
            assert door.deed in RULES, name
            path = door.path.replace("{id}", "rev-1")
            answer = nobody.request(door.method, path)
            if door.open_to_all:
                assert answer.status_code in (200, 403), name
            else:
                assert answer.status_code in (303, 401), name
                assert "reviews" not in answer.text


WHO = {"asker": Role.RESEARCHER, "judge": Role.REVIEWER, "boss": Role.ADMIN}


@pytest.mark.parametrize("name", [name for name, door in DOORS.items() if not door.open_to_all])
def test_every_route_lets_in_whom_the_table_does(served: Served, name: str) -> None:
    door = DOORS[name]
    rule = RULES[door.deed]
    for who, role in WHO.items():
        if name == "logout":
            continue
        with served.browser(who) as browser:
            form = {"form_secret": secret_in(browser.get("/").text), "digest": "0" * 64, "verdict": "deny"}
            words = {"data": form} if door.method == "POST" else {}
            answer = browser.request(door.method, door.path.replace("{id}", "rev-none"), **words)
            allowed = role in rule.roles or bool(rule.room_looks_at)
            assert (answer.status_code != 403) is allowed, (who, answer.text[:200])
            assert answer.status_code < 500


def test_an_unknown_review_is_not_found_whatever_is_sent(served: Served) -> None:
    with served.browser("judge") as judge:
        secret = secret_in(judge.get("/").text)
        assert judge.get("/reviews/rev-none").status_code == 404
        for form in ({}, {"digest": "x", "verdict": "approve"}, {"digest": "x", "verdict": "what"}):
            answer = judge.post("/reviews/rev-none/decide", data={"form_secret": secret, **form})
            assert answer.status_code in (400, 404)


def test_a_taken_port_is_told() -> None:
    with server.listen(0) as sock, pytest.raises(PortTaken, match="cannot be listened on"):
        server.listen(sock.getsockname()[1])


# -- attack 070: sessions


def test_atk_070_a_session_name_that_was_brought_along_is_worth_nothing(served: Served) -> None:
    with served.browser() as victim:
        victim.cookies.set(COOKIE, "f" * 64, domain="127.0.0.1")
        answer = victim.post("/login", data={"token": served.tokens["judge"]})
        given = answer.cookies[COOKIE]
        assert given != "f" * 64
        attributes = answer.headers["set-cookie"].lower()
        assert "httponly" in attributes and "samesite=strict" in attributes and "path=/" in attributes
    with httpx.Client(base_url=served.url, cookies={COOKIE: "f" * 64}) as attacker:
        assert attacker.get("/").status_code == 303


def test_atk_070_over_tls_the_cookie_is_secure(served: Served) -> None:
    app = make_app(served.house, hosts=("127.0.0.1",), secure=True)
    with httpx.Client(transport=_Direct(app), base_url="http://127.0.0.1") as client:
        answer = client.post("/login", data={"token": served.tokens["judge"]})
    assert "secure" in answer.headers["set-cookie"].lower()


class _Direct(httpx.BaseTransport):
    """Ask an app without a server."""

    def __init__(self, app: object) -> None:
        self._app = httpx.ASGITransport(app=app)  # type: ignore[arg-type]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        import asyncio

        async def ask() -> httpx.Response:
            answer = await self._app.handle_async_request(request)
            body = b"".join([part async for part in answer.stream])  # type: ignore[union-attr]
            return httpx.Response(answer.status_code, headers=answer.headers, content=body)

        return asyncio.run(ask())


def test_atk_070_after_a_logout_or_a_revoked_token_the_session_is_nothing(served: Served) -> None:
    with served.browser("judge") as judge:
        kept = judge.cookies[COOKIE]
        page = judge.get("/").text
        assert judge.post("/logout", data={"form_secret": secret_in(page)}).status_code == 303
        with httpx.Client(base_url=served.url, cookies={COOKIE: kept}) as replay:
            assert replay.get("/").status_code == 303
    with served.browser("boss") as boss:
        assert boss.get("/").status_code == 200
        house = served.house
        revoke_token(served.records["boss"], by=None, ledger=house.ledger, clock=house.clock)
        assert boss.get("/").status_code == 303


def test_atk_070_a_token_in_an_address_is_refused(served: Served) -> None:
    with served.browser() as browser:
        answer = browser.get(f"/?token={served.tokens['judge']}")
        assert answer.status_code == 400
        assert served.tokens["judge"] not in answer.text
        assert COOKIE not in answer.cookies


def test_atk_070_a_form_of_another_site_or_session_does_nothing(served: Served) -> None:
    review = ask(served)
    with served.browser("judge") as judge:
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            digest = served.house.ledger.catalogue.review(review).request_digest  # type: ignore[arg-type]
            form = {"form_secret": secret_in(judge.get("/").text), "digest": digest, "verdict": "approve"}
            assert judge.post(f"/reviews/{review}/decide", data=form, headers=headers).status_code == 403
        with served.browser("boss") as boss:
            stolen = secret_in(boss.get("/").text)
        assert decide(judge, review, form_secret=stolen).status_code == 403
        assert decide(judge, review, form_secret="").status_code == 403
    assert state(served, review) is not ReviewState.APPROVED


def test_atk_070_another_name_for_this_address_is_refused(served: Served) -> None:
    answer = raw(served, b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert b" 421 " in answer.split(b"\r\n")[0]


# -- attack 072: names


def test_atk_072_names_and_reasons_are_shown_as_text_and_split_no_header(served: Served) -> None:
    review = ask(served)
    with served.browser("judge") as judge:
        answer = decide(judge, review, reason=NASTY + "\r\nSet-Cookie: a=b")
        assert answer.status_code == 303
        assert "a=b" not in str(answer.headers)
        page = judge.get(f"/reviews/{review}")
    assert "<script>" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert NASTY in (served.house.ledger.catalogue.review(review).reason or "")  # type: ignore[arg-type]


def test_atk_072_a_path_leads_nowhere_else(served: Served) -> None:
    with served.browser("judge") as judge:
        for path in (
            "/reviews/../../etc/passwd",
            "/reviews/%2e%2e%2fetc",
            "/reviews/<script>",
            "/style.css/../x",
        ):
            answer = judge.get(path)
            assert answer.status_code in (404, 405), path
            assert "root:" not in answer.text
            assert "<script>" not in answer.text or answer.headers["content-type"].startswith("text/plain")


# -- attack 074: too much, too slow, two lengths


def test_atk_074_a_body_or_a_head_of_ten_megabytes_is_refused(served: Served) -> None:
    head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    answer = _until_closed(served, head + b"Content-Length: 10000000\r\n\r\n" + b"token=" + b"a" * 10_000_000)
    assert b" 413 " in answer.split(b"\r\n")[0]
    answer = _until_closed(served, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 10_000_000)
    assert b" 200 " not in answer
    with served.browser() as other:
        assert other.get("/login").status_code == 200


def _until_closed(served: Served, request: bytes) -> bytes:
    """As `raw`, from a sender that keeps sending until it is cut off."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock:
        answer = b""
        with contextlib.suppress(OSError):
            sock.sendall(request)
        with contextlib.suppress(OSError):
            while part := sock.recv(65_536):
                answer += part
        return answer


def test_atk_074_two_hundred_slow_connections_keep_nobody_out_and_are_ended(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN_S", 1.0)
    slow = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(200)]
    try:
        for sock in slow:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        with served.browser() as other:
            assert other.get("/login").status_code == 200
        assert all(_is_closed(sock) for sock in slow)
    finally:
        for sock in slow:
            sock.close()


def _is_closed(sock: socket.socket) -> bool:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        try:
            if sock.recv(1000) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_atk_074_a_slow_body_is_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_WITHIN_S", 0.5)
    head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\ntoken="
    answer = _until_closed(served, head)
    assert b" 408 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +5\r\n",
    ],
)
def test_atk_074_a_request_with_two_lengths_smuggles_nothing(served: Served, lengths: bytes) -> None:
    inner = b"GET /keys HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    request = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\n" + lengths + b"\r\n0\r\n\r\n" + inner
    answer = _until_closed(served, request)
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert answer.count(b"HTTP/1.1 ") == 1, "what came behind it was not taken for a request"


def test_it_listens_on_loopback_only() -> None:
    with server.listen(0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
