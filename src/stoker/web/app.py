"""The page: reviews to decide, datasets, keys, the log, the promises. See docs/design/web.md.

Every route stands in ROUTES with its deed, and is let through by the one table of permissions. The page works
without scripts; what is shown is what the command line shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import jinja2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from stoker.core.clock import iso_utc
from stoker.core.errors import StokerError
from stoker.core.ids import ReviewId
from stoker.core.progress import SILENT
from stoker.core.result import plain
from stoker.intake.errors import OtherRequest
from stoker.intake.policy.gate import worst_recall
from stoker.intake.proportion import Share
from stoker.intake.review import ask_changes, decide_review, revoke_review
from stoker.intake.review_gate import facts_of
from stoker.intake.review_machine import Standing, standing
from stoker.intake.review_request import answers_in, name_model_in, policy_in, terms_in
from stoker.intake.scan_report import ScanReport, read_report
from stoker.ledger.access import Caller
from stoker.ledger.errors import PermissionRefused, TokenRefused, UnknownReview
from stoker.ledger.permissions import Deed, in_scope, may, require
from stoker.ledger.records import ReviewRecord, ReviewState
from stoker.promises.promise import VerifyReport
from stoker.promises.verify import verify_promises
from stoker.web.guards import App, Guards
from stoker.web.house import WebHouse
from stoker.web.sessions import Session, Sessions
from stoker.web.style import STYLE

COOKIE: Final = "stoker-session"
LOG_ENTRIES: Final = 200
MAX_TOKEN_CHARACTERS: Final = 200
OPEN_STATES: Final = (ReviewState.REQUESTED, ReviewState.SCANNED)

_PAGES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("stoker.web"), autoescape=True, undefined=jinja2.StrictUndefined
)


def _share(found: Share) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


_PAGES.filters["share"] = _share
_PAGES.filters["when"] = lambda seconds: "-" if seconds is None else iso_utc(seconds)


@dataclass(frozen=True, slots=True)
class Door:
    """One route: what is done there, and whether it can be reached before a login."""

    method: str
    path: str
    deed: Deed
    open_to_all: bool = False


class Page:
    """The routes over one house."""

    def __init__(self, house: WebHouse, *, secure: bool) -> None:
        """`secure`: it is reached over TLS, so the cookie is never sent without."""
        self._house = house
        self._secure = secure
        self.sessions = Sessions(house.ledger, house.clock)
        self._verifying = asyncio.Lock()

    # -- before a login

    async def style(self, request: Request) -> Response:
        return PlainTextResponse(STYLE + _MORE_STYLE, media_type="text/css")

    async def login_form(self, request: Request) -> Response:
        return _page("login.html", wrong="")

    async def login(self, request: Request) -> Response:
        """A new session each time: whatever name the browser brought is worth nothing."""
        form = await request.form()
        text = str(form.get("token", ""))[:MAX_TOKEN_CHARACTERS].strip()
        self.sessions.end(request.cookies.get(COOKIE, ""))
        try:
            name, _ = self.sessions.begin(text)
        except TokenRefused as error:
            return _page("login.html", status=HTTPStatus.FORBIDDEN, wrong=error.message)
        answer = RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
        answer.set_cookie(COOKIE, name, httponly=True, samesite="strict", secure=self._secure, path="/")
        return answer

    # -- after it

    async def logout(self, request: Request, caller: Caller, session: Session) -> Response:
        self.sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", status_code=HTTPStatus.SEE_OTHER)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=self._secure, path="/")
        return answer

    async def reviews(self, request: Request, caller: Caller, session: Session) -> Response:
        found = list(reversed(self._house.ledger.catalogue.reviews()))
        waiting = [each for each in found if each.state in OPEN_STATES]
        rest = [each for each in found if each.state not in OPEN_STATES]
        expired = {each.id for each in rest if self._expired(each)}
        return _page(
            "reviews.html", caller=caller, session=session, waiting=waiting, rest=rest, expired=expired
        )

    async def review(self, request: Request, caller: Caller, session: Session) -> Response:
        return self._shown(request.path_params["id"], caller, session)

    async def decide(self, request: Request, caller: Caller, session: Session) -> Response:
        """Approve, refuse or ask for changes: on exactly the request whose digest stands in the form."""
        form = await request.form()
        id, verdict = ReviewId(request.path_params["id"]), str(form.get("verdict", ""))
        reason, shown = str(form.get("reason", "")), str(form.get("digest", ""))
        if not shown:
            raise OtherRequest("The form does not say which request it decides.", hint="Open the page again.")
        house = self._house
        words: dict[str, Any] = {
            "reason": reason,
            "decided_by": caller.name,
            "ledger": house.ledger,
            "backend": house.backend,
            "clock": house.clock,
            "shown": shown,
        }
        if verdict == "changes":
            ask_changes(id, **words)
        elif verdict in ("approve", "deny"):
            recall = self._recall(house.ledger.catalogue.review(id)) if verdict == "approve" else None
            decide_review(id, approve=verdict == "approve", recall=recall, **words)
        else:
            return PlainTextResponse("A verdict is approve, deny or changes.\n", HTTPStatus.BAD_REQUEST)
        return RedirectResponse(f"/reviews/{id}", status_code=HTTPStatus.SEE_OTHER)

    async def revoke(self, request: Request, caller: Caller, session: Session) -> Response:
        form = await request.form()
        id, house = ReviewId(request.path_params["id"]), self._house
        revoke_review(
            id,
            reason=str(form.get("reason", "")),
            revoked_by=caller.name,
            ledger=house.ledger,
            backend=house.backend,
            clock=house.clock,
        )
        return RedirectResponse(f"/reviews/{id}", status_code=HTTPStatus.SEE_OTHER)

    async def datasets(self, request: Request, caller: Caller, session: Session) -> Response:
        found = tuple(reversed(self._house.ledger.catalogue.datasets()))
        return _page("datasets.html", caller=caller, session=session, datasets=found)

    async def keys(self, request: Request, caller: Caller, session: Session) -> Response:
        return _page("keys.html", caller=caller, session=session, keys=self._house.backend.list_keks())

    async def audit(self, request: Request, caller: Caller, session: Session) -> Response:
        log = self._house.ledger.audit
        size = log.size
        entries = list(log.entries(max(0, size - LOG_ENTRIES), size))
        return _page(
            "audit.html",
            caller=caller,
            session=session,
            entries=entries[::-1],
            checkpoint=log.checkpoint().text,
        )

    async def promises(self, request: Request, caller: Caller, session: Session) -> Response:
        return _page("promises.html", caller=caller, session=session, report=await self._verified())

    async def promises_json(self, request: Request, caller: Caller, session: Session) -> Response:
        return JSONResponse(plain(await self._verified()))

    # -- inside

    async def _verified(self) -> VerifyReport:
        """All promises, checked now; one check at a time, beside the other requests."""
        async with self._verifying:
            return await asyncio.to_thread(self._verify)

    def _verify(self) -> VerifyReport:
        house = self._house
        return verify_promises(
            home=house.home,
            ledger=house.ledger,
            backend=house.backend,
            store=house.store,
            cache=house.cache,
            clock=house.clock,
            progress=SILENT,
        )

    def _shown(self, id: str, caller: Caller, session: Session, wrong: StokerError | None = None) -> Response:
        review = self._house.ledger.catalogue.review(ReviewId(id))
        row = self._house.ledger.catalogue.review_terms(review.id)
        scan = self._scan(review)
        examples = scan is not None and bool(scan.examples) and _allows(caller, Deed.REVIEW_EXAMPLES)
        if examples:
            self._record_view(review, caller)
        return _page(
            "review.html",
            status=HTTPStatus.OK if wrong is None else HTTPStatus.CONFLICT,
            caller=caller,
            session=session,
            review=review,
            terms=plain(terms_in(row)),
            policy=policy_in(row),
            name_model=name_model_in(row),
            answers=answers_in(row),
            expired=self._expired(review),
            scan=scan,
            open=review.state in OPEN_STATES,
            may_decide=_allows(caller, Deed.REVIEW_DECIDE) and caller.name != review.requested_by,
            may_see_examples=examples,
            wrong=wrong,
        )

    def _record_view(self, review: ReviewRecord, caller: Caller) -> None:
        """Lines of raw data are shown, masked as they are: the log says to whom, each time."""
        detail = {"review": review.id, "scan_digest": review.scan_digest, "face": "page"}
        with self._house.ledger.act(
            actor=caller.name, action="review.examples", subject=f"source/{review.source}", detail=detail
        ):
            pass

    def _scan(self, review: ReviewRecord) -> ScanReport | None:
        if not review.scan_digest:
            return None
        versions = self._house.ledger.catalogue.sources(review.source)
        record = next((each for each in versions if each.version == review.source_version), None)
        if record is None:
            return None
        try:
            house = self._house
            return read_report(record, backend=house.backend, store=house.store, digest=review.scan_digest)
        except StokerError:
            return None  # its key may be gone; the request itself is still to be seen

    def _expired(self, review: ReviewRecord) -> bool:
        """An approval whose time is over; what is stored is the decision alone."""
        return standing(facts_of(review), self._house.clock.now_s()) is Standing.EXPIRED

    def _recall(self, review: ReviewRecord) -> float | None:
        row = self._house.ledger.catalogue.review_terms(review.id)
        if terms_in(row).least_recall <= 0.0:
            return None
        scan = self._scan(review)
        return None if scan is None else worst_recall(scan.recall, policy_in(row))


Handler = Callable[[Request, Caller, Session], Any]

DOORS: Final[Mapping[str, Door]] = {
    "style": Door("GET", "/style.css", Deed.LOOK, open_to_all=True),
    "login_form": Door("GET", "/login", Deed.LOOK, open_to_all=True),
    "login": Door("POST", "/login", Deed.LOOK, open_to_all=True),
    "logout": Door("POST", "/logout", Deed.LOOK),
    "reviews": Door("GET", "/", Deed.LOOK),
    "review": Door("GET", "/reviews/{id}", Deed.LOOK),
    "decide": Door("POST", "/reviews/{id}/decide", Deed.REVIEW_DECIDE),
    "revoke": Door("POST", "/reviews/{id}/revoke", Deed.REVIEW_REVOKE),
    "datasets": Door("GET", "/datasets", Deed.LOOK),
    "keys": Door("GET", "/keys", Deed.LOOK),
    "audit": Door("GET", "/audit", Deed.LOOK),
    "promises": Door("GET", "/promises", Deed.LOOK),
    "promises_json": Door("GET", "/promises.json", Deed.LOOK),
}
"""Every route by the name of its method of Page; one without a row is not reached."""


def make_app(house: WebHouse, *, hosts: Collection[str], secure: bool) -> App:
    """The page over `house`, behind its guards."""
    page = Page(house, secure=secure)
    routes = [
        Route(door.path, _open(page, name, door), methods=[door.method]) for name, door in DOORS.items()
    ]
    return Guards(Starlette(routes=routes), hosts=hosts)


def _open(page: Page, name: str, door: Door) -> Callable[[Request], Any]:
    """The handler of a route: a session, a form of that session, and leave, before anything is done."""
    handler = getattr(page, name)
    if door.open_to_all:
        return handler  # type: ignore[no-any-return]

    async def enter(request: Request) -> Response:
        found = page.sessions.find(request.cookies.get(COOKIE, ""))
        if found is None:
            if door.method == "GET" and not door.path.endswith(".json"):
                return RedirectResponse("/login", status_code=HTTPStatus.SEE_OTHER)
            return PlainTextResponse("Log in first.\n", HTTPStatus.UNAUTHORIZED)
        session, caller = found
        if door.method == "POST":
            form = await request.form()
            if not session.takes(str(form.get("form_secret", ""))):
                return PlainTextResponse("The form is not of this session.\n", HTTPStatus.FORBIDDEN)
        try:
            require(door.deed, caller.name, caller.role, caller.scopes)
            answer: Response = await handler(request, caller, session)
        except UnknownReview as error:
            return PlainTextResponse(f"{error.message}\n", HTTPStatus.NOT_FOUND)
        except PermissionRefused as error:
            return PlainTextResponse(f"{error.message}\n", HTTPStatus.FORBIDDEN)
        except StokerError as error:
            if "id" not in request.path_params:
                return _page(
                    "wrong.html", status=HTTPStatus.CONFLICT, caller=caller, session=session, wrong=error
                )
            try:
                return page._shown(request.path_params["id"], caller, session, error)
            except UnknownReview as unknown:
                return PlainTextResponse(f"{unknown.message}\n", HTTPStatus.NOT_FOUND)
        return answer

    return enter


def _allows(caller: Caller, deed: Deed) -> bool:
    """Whether role and token both allow it."""
    return may(caller.role, deed) and (caller.scopes is None or in_scope(caller.scopes, deed))


def _page(template: str, *, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    return HTMLResponse(_PAGES.get_template(template).render(**values), status_code=status)


_MORE_STYLE: Final = """
nav{display:flex;gap:18px;align-items:baseline;margin-bottom:8px}nav form{margin-left:auto}
nav a{color:var(--blue);text-decoration:none}nav b{font-size:18px}
table{width:100%}td,th{text-align:left;vertical-align:top;overflow-wrap:anywhere}
button{font:inherit;padding:7px 16px;border-radius:8px;border:1px solid var(--line);background:var(--card);
color:var(--ink);cursor:pointer}button.yes{background:var(--green);color:#fff;border-color:var(--green)}
button.no{background:var(--red);color:#fff;border-color:var(--red)}
input,textarea{font:inherit;width:100%;padding:8px;border-radius:8px;border:1px solid var(--line);
background:var(--page);color:var(--ink)}form.decide{display:grid;gap:12px}
form.decide div{display:flex;gap:10px}
code{font-size:12.5px;overflow-wrap:anywhere}.wrong{border-color:var(--red)}.wrong p{color:var(--red)}
.state{display:inline-block;padding:1px 9px;border-radius:9px;border:1px solid var(--line)}
.kept{color:var(--green)}.broken{color:var(--red)}.untried{color:var(--soft)}
"""
