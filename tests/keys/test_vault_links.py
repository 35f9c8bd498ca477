"""Links to a vault: who may be at the other end. Attacks ATK-030 and ATK-068, on real TLS servers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from stoker.keys.errors import InsecureLink, LooseKeyFile, VaultUnreachable
from stoker.keys.vaults.https import pool
from stoker.keys.vaults.secret_file import read_secret_file
from stoker.keys.vaults.tls import TlsRules, check_url, link_error, session, tls_context
from support.certificates import Authority, Heard, Shown, tls_server

SPIFFE = "spiffe://stoker.test/key-service"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def ask(url: str, rules: TlsRules, **more: object) -> int:
    """Through `requests`, as hvac sends."""
    with session(url, rules) as made:
        try:
            return made.get(f"{url}/v1/sys/health", timeout=30, **more).status_code  # type: ignore[arg-type]
        except requests.exceptions.RequestException as error:
            raise link_error(error, "the key service") from error


def ask_urllib3(url: str, rules: TlsRules) -> int:
    """Through urllib3, as boto3's requests are sent."""
    try:
        return int(pool(tls_context(rules)).request("GET", f"{url}/", timeout=30).status)
    except Exception as error:
        raise link_error(error, "the key service") from error


ASKING: list[Callable[[str, TlsRules], int]] = [ask, ask_urllib3]


@pytest.mark.parametrize("asking", ASKING)
def test_a_server_that_keeps_the_rules_is_reached(
    authority: Authority, asking: Callable[[str, TlsRules], int]
) -> None:
    shown = authority.issue("service", uris=[SPIFFE])
    with tls_server(shown) as heard:
        assert asking(heard.url(), TlsRules(ca_file=authority.ca_file)) == 200
        assert asking(heard.url(), TlsRules(ca_file=authority.ca_file, spiffe_id=SPIFFE)) == 200
    assert len(heard.requests) == 2


WRONG: dict[str, Callable[[Authority], Shown]] = {
    "expired": lambda ours: ours.issue("s", uris=[SPIFFE], days=(-3, -1)),
    "not yet valid": lambda ours: ours.issue("s", uris=[SPIFFE], days=(1, 3)),
    "self-signed": lambda ours: ours.issue("s", uris=[SPIFFE], self_signed=True),
    "of another authority": lambda ours: Authority(ours.folder, "another").issue("s", uris=[SPIFFE]),
    "of another host": lambda ours: ours.issue("s", hosts=["key.example"], uris=[SPIFFE]),
    "of another SPIFFE id": lambda ours: ours.issue("s", uris=["spiffe://stoker.test/other"]),
    "of a longer SPIFFE id": lambda ours: ours.issue("s", uris=[SPIFFE + "/x"]),
    "of two SPIFFE ids": lambda ours: ours.issue("s", uris=[SPIFFE, "spiffe://stoker.test/other"]),
    "without a SPIFFE id": lambda ours: ours.issue("s"),
    "with the id as a host name": lambda ours: ours.issue("s", hosts=["localhost", "stoker.test"]),
}


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("kind", WRONG)
def test_atk_030_a_certificate_of_another_is_refused_before_anything_is_sent(
    authority: Authority, kind: str, asking: Callable[[str, TlsRules], int]
) -> None:
    with tls_server(WRONG[kind](authority)) as heard:
        with pytest.raises(InsecureLink, match="the key service is not reached") as refused:
            asking(heard.url(), TlsRules(ca_file=authority.ca_file, spiffe_id=SPIFFE))
        assert "ca_file" in refused.value.hint
    assert heard.requests == []


def test_atk_030_a_system_authority_does_not_stand_in_for_the_pinned_one(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that the environment names, nor `verify=False`, which hvac hands through."""
    other = Authority(authority.folder, "another")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(other.ca_file))
    rules = TlsRules(ca_file=authority.ca_file)
    with tls_server(other.issue("s")) as heard:
        for verify in (None, True, False, str(other.ca_file)):
            with pytest.raises(InsecureLink):
                ask(heard.url(), rules, verify=verify)
    assert heard.requests == []


def test_atk_030_a_proxy_of_the_environment_is_not_asked(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(None) as proxy, tls_server(authority.issue("s")) as heard:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("http"))
        assert ask(heard.url(), TlsRules(ca_file=authority.ca_file)) == 200
        with pytest.raises(VaultUnreachable):
            ask(heard.url(), TlsRules(ca_file=authority.ca_file), proxies={"https": proxy.url("http")})
    assert proxy.requests == []


def test_atk_030_a_client_without_a_certificate_is_told_so(authority: Authority) -> None:
    mine = authority.issue("client")
    shown = authority.issue("service")
    # With TLS 1.3 the server's word may be lost when it hangs up, so only 1.2 tells for certain.
    with tls_server(shown, client_ca=authority.ca_file, at_most=ssl.TLSVersion.TLSv1_2) as heard:
        with pytest.raises(InsecureLink, match="ALERT"):
            ask(heard.url(), TlsRules(ca_file=authority.ca_file))
        rules = TlsRules(ca_file=authority.ca_file, client_cert=mine.cert, client_key=mine.key)
        assert ask(heard.url(), rules) == 200
    assert len(heard.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://kms.example:8200",
        "http://10.0.0.1:8200",
        "http://127.0.0.1.example:8200",
        "http://localhost.example",
        "http://[fe80::1]",
        "ftp://localhost",
        "localhost:8200",
        "https://",
        "https://host:0",
        "https://host:port",
        "https://user@host",
        "https://user:password@host",
        "https://host/?token=password",
        "https://host/#password",
    ],
)
def test_atk_068_an_address_without_tls_or_with_a_secret_is_refused(url: str) -> None:
    for rules in (TlsRules(), TlsRules(plain_loopback=True)):
        with pytest.raises(InsecureLink) as refused:
            session(url, rules)
        assert "password" not in refused.value.message.replace("a password", "")


def test_atk_068_plain_http_is_for_loopback_and_takes_a_word() -> None:
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]"):
        with pytest.raises(InsecureLink, match="in the clear"):
            check_url(f"http://{host}:8200", TlsRules())
        assert check_url(f"http://{host}:8200", TlsRules(plain_loopback=True)).scheme == "http"
    with tls_server(None) as heard:
        assert ask(heard.url("http"), TlsRules(plain_loopback=True)) == 200


def test_atk_068_a_server_that_speaks_no_tls_is_refused(authority: Authority) -> None:
    with tls_server(None) as heard, pytest.raises(InsecureLink):
        ask(heard.url(), TlsRules(ca_file=authority.ca_file))
    assert heard.requests == []


def refuse_tls(authority: Authority, **server: object) -> Heard:
    shown = authority.issue("service")
    with tls_server(shown, **server) as heard, pytest.raises(InsecureLink):  # type: ignore[arg-type]
        ask(heard.url(), TlsRules(ca_file=authority.ca_file))
    return heard


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_atk_068_tls_before_1_2_is_refused(authority: Authority, version: ssl.TLSVersion) -> None:
    heard = refuse_tls(authority, at_most=version, ciphers="ALL:@SECLEVEL=0")
    assert heard.requests == []


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"])
def test_atk_068_a_cipher_without_authentication_of_its_own_is_refused(
    authority: Authority, cipher: str
) -> None:
    heard = refuse_tls(authority, at_most=ssl.TLSVersion.TLSv1_2, ciphers=cipher)
    assert heard.requests == []


def test_atk_068_tls_1_2_with_an_aead_cipher_is_spoken(authority: Authority) -> None:
    with tls_server(authority.issue("service"), at_most=ssl.TLSVersion.TLSv1_2) as heard:
        assert ask(heard.url(), TlsRules(ca_file=authority.ca_file)) == 200


def test_atk_068_a_redirect_leads_nowhere(authority: Authority) -> None:
    """Not to another host, nor to the same one without TLS: the token would go along."""
    with tls_server(None) as elsewhere, tls_server(authority.issue("service")) as heard:
        for target in (elsewhere.url("http"), heard.url(host="127.0.0.1"), heard.url() + "/v1/again"):
            heard.redirect_to = target
            with pytest.raises(VaultUnreachable):
                ask(heard.url(), TlsRules(ca_file=authority.ca_file))
    assert elsewhere.requests == []
    assert len(heard.requests) == 3


def test_a_cut_connection_is_no_fault_of_the_certificate() -> None:
    assert isinstance(link_error(ssl.SSLEOFError(8, "EOF"), "it"), VaultUnreachable)
    assert isinstance(link_error(ConnectionRefusedError(), "it"), VaultUnreachable)
    assert isinstance(link_error(ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "it"), InsecureLink)


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    mine, other = authority.issue("client"), authority.issue("other")
    missing, garbled = tmp_path / "missing.pem", tmp_path / "garbled.pem"
    garbled.write_text("no certificate")
    garbled.chmod(0o600)
    for rules in (
        TlsRules(ca_file=missing),
        TlsRules(ca_file=garbled),
        TlsRules(client_cert=missing, client_key=missing),
        TlsRules(client_cert=mine.cert, client_key=garbled),
        TlsRules(client_cert=mine.cert, client_key=other.key),
    ):
        with pytest.raises(InsecureLink, match=r"\.pem"):
            tls_context(rules)
    mine.key.chmod(0o640)
    with pytest.raises(LooseKeyFile):
        tls_context(TlsRules(client_cert=mine.cert, client_key=mine.key))


def test_a_spiffe_id_needs_its_form_and_a_pinned_authority(authority: Authority) -> None:
    with pytest.raises(InsecureLink, match="no SPIFFE id"):
        tls_context(TlsRules(ca_file=authority.ca_file, spiffe_id="https://stoker.test/x"))
    with pytest.raises(InsecureLink, match="pinned"):
        tls_context(TlsRules(spiffe_id=SPIFFE))


def test_a_login_secret_is_one_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content, fine in (
        (b"s.secret\n", True),
        (b"  s.secret", True),
        (b"", False),
        (b"\n", False),
        (b"s.secret\nanother\n", False),
        (b"s.secr\xffet", False),
        (b"s" * 5000, False),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        if fine:
            assert read_secret_file(path, "the token") == "s.secret"
        else:
            with pytest.raises(LooseKeyFile, match="the token in one line") as refused:
                read_secret_file(path, "the token")
            assert "s.s" not in refused.value.message
    path.chmod(0o604)
    with pytest.raises(LooseKeyFile, match="0604"):
        read_secret_file(path, "the token")
