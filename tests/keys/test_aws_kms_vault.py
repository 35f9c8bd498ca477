"""KEKs in AWS KMS: meaning judged on a server that keeps to key states, the form of requests on moto."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.keys.errors import (
    BadKeysUrl,
    InsecureLink,
    KeyDestroyed,
    KeyNotActive,
    VaultRefused,
    VaultUnreachable,
    WrongContext,
)
from stoker.keys.refs import KekRef
from stoker.keys.secret import SecretKey
from stoker.keys.vault import MAX_WRAPPED_BYTES, KekVault
from stoker.keys.vaults.aws_kms import AwsKmsVault, open_aws_kms
from stoker.keys.vaults.aws_link import KmsPlace
from stoker.keys.vaults.patience import Patience, PatienceRules
from support.certificates import Authority
from support.kms_server import DAY_S, REGION, Kms, Principal, Refused, kms_server
from support.s3_servers import moto_server

REF = KekRef("dataset/own-text", 1)
CONTEXT = b"dataset/own-text 1 dataset"


def patience() -> Patience:
    rules = PatienceRules(attempts=3, first_pause_s=0.001, first_rest_s=0.0, longest_rest_s=0.0)
    return Patience(rules)


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    with kms_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["aws", "external"])
def vault(request: pytest.FixtureRequest, kms: Kms) -> Iterator[AwsKmsVault]:
    place = KmsPlace.parse(f"{kms.url}&origin={request.param}")
    with AwsKmsVault(place, patience=patience()) as opened:
        yield opened


def wrapped(vault: KekVault, handle: str, ref: KekRef = REF) -> tuple[bytes, bytes]:
    """A key, and the same key wrapped."""
    with SecretKey.generate() as key:
        return bytes(key.view()), vault.wrap(handle, ref, key, CONTEXT)


def test_a_key_comes_back_and_kms_is_told_what_it_is_for(vault: AwsKmsVault, kms: Kms) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    assert len(sealed) <= MAX_WRAPPED_BYTES
    assert plain not in sealed
    with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
        assert bytes(opened.view()) == plain
    assert kms.keys[handle].description == f"Stoker KEK {REF}"
    action, words = kms.asked[-1]
    assert (action, words["KeyId"]) == ("Decrypt", handle)
    assert words["EncryptionContext"]["stoker-scope"] == REF.scope
    assert CONTEXT.decode() not in str(words["EncryptionContext"])


def test_the_context_the_kek_and_every_bit_must_be_the_same(vault: AwsKmsVault) -> None:
    handle, other = vault.create(REF), vault.create(REF)
    _, sealed = wrapped(vault, handle)
    for context in (b"", CONTEXT[:-1], CONTEXT + b"\0", CONTEXT.upper()):
        with pytest.raises(WrongContext, match=str(REF)):
            vault.unwrap(handle, REF, sealed, context)
    with pytest.raises(WrongContext):
        vault.unwrap(handle, KekRef(REF.scope, 2), sealed, CONTEXT)
    with pytest.raises(WrongContext):
        vault.unwrap(other, REF, sealed, CONTEXT)
    for position in range(0, 8 * len(sealed), 29):
        flipped = bytearray(sealed)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(WrongContext):
            vault.unwrap(handle, REF, bytes(flipped), CONTEXT)


@pytest.mark.parametrize("size", [0, 1, 5, MAX_WRAPPED_BYTES + 1, 10_000_000])
def test_atk_028_a_blob_of_absurd_size_is_not_sent(vault: AwsKmsVault, kms: Kms, size: int) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    before = len(kms.asked)
    with pytest.raises(WrongContext, match=f"{size} bytes"):
        vault.unwrap(handle, REF, (sealed * (size // len(sealed) + 1))[:size], CONTEXT)
    assert len(kms.asked) == before


def test_atk_028_a_blob_of_another_shard_is_refused_and_the_batch_with_it(vault: AwsKmsVault) -> None:
    handle = vault.create(REF)
    pairs = [wrapped(vault, handle) for _ in range(5)]
    good = [(sealed, CONTEXT) for _, sealed in pairs] * 20
    opened = vault.unwrap_many(handle, REF, good)
    assert [bytes(key.view()) for key in opened] == [plain for plain, _ in pairs] * 20
    with pytest.raises(WrongContext):
        vault.unwrap_many(handle, REF, [*good[:80], (good[80][0], b"another"), *good[81:]])
    for key in opened:
        key.wipe()


def test_a_disabled_kek_opens_nothing_until_it_is_enabled(vault: AwsKmsVault, kms: Kms) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    vault.disable(handle, REF)
    vault.disable(handle, REF)
    with pytest.raises(KeyNotActive, match=str(REF)):
        vault.unwrap(handle, REF, sealed, CONTEXT)
    with pytest.raises(KeyNotActive):
        wrapped(vault, handle)
    assert vault.exists(handle, REF)
    vault.enable(handle, REF)
    vault.enable(handle, REF)
    vault.unwrap(handle, REF, sealed, CONTEXT).wipe()


def test_a_destroyed_kek_opens_nothing_from_then_on(vault: AwsKmsVault, kms: Kms) -> None:
    handle = vault.create(REF)
    _, sealed = wrapped(vault, handle)
    for days in (0, 0, 6.9, 0.2):
        kms.advance_days(days)
        vault.destroy(handle, REF)
        assert not vault.exists(handle, REF)
        for use in (
            lambda: vault.unwrap(handle, REF, sealed, CONTEXT),
            lambda: wrapped(vault, handle),
            lambda: vault.disable(handle, REF),
            lambda: vault.enable(handle, REF),
        ):
            with pytest.raises(KeyDestroyed, match=str(REF)):
                use()
    assert handle not in kms.keys


def test_what_an_administrator_of_the_account_can_call_back(vault: AwsKmsVault, kms: Kms) -> None:
    """A KEK that KMS made, for seven days; one that was imported, never: what vaults.md says of both."""
    handle = vault.create(REF)
    external = kms.keys[handle].origin == "EXTERNAL"
    _, sealed = wrapped(vault, handle)
    vault.destroy(handle, REF)
    kms.answer("CancelKeyDeletion", "SUPERVISOR", {"KeyId": handle})
    if external:
        assert kms.keys[handle].material is None
        with pytest.raises(KeyDestroyed):
            vault.enable(handle, REF)
        with pytest.raises(KeyDestroyed):
            vault.unwrap(handle, REF, sealed, CONTEXT)
    else:
        vault.enable(handle, REF)
        vault.unwrap(handle, REF, sealed, CONTEXT).wipe()


def test_when_kms_erases_what_it_made_and_that_nothing_is_left_of_what_was_imported(
    vault: AwsKmsVault, kms: Kms
) -> None:
    handle = vault.create(REF)
    assert vault.erased_at_s(handle, REF) is None, "nothing is scheduled"
    vault.destroy(handle, REF)
    external = kms.keys[handle].origin == "EXTERNAL"
    assert vault.erased_at_s(handle, REF) == (None if external else kms.now_s + 7 * DAY_S)
    kms.advance_days(7)
    assert vault.erased_at_s(handle, REF) is None


def test_a_deletion_without_a_date_is_not_taken_for_an_erasure(kms: Kms) -> None:
    with AwsKmsVault(KmsPlace.parse(kms.url), patience=patience()) as vault:
        handle = vault.create(REF)
        kms.keys[handle].state = "PendingReplicaDeletion"
        assert not vault.exists(handle, REF)
        with pytest.raises(VaultUnreachable, match="does not say when"):
            vault.erased_at_s(handle, REF)


def test_a_handle_that_is_none_is_never_sent(vault: AwsKmsVault, kms: Kms) -> None:
    for strange in ("", "alias/other", "../x", "arn:aws:kms:eu-central-1:111122223333:alias/other"):
        before = len(kms.asked)
        with pytest.raises(KeyDestroyed):
            wrapped(vault, strange)
        vault.destroy(strange, REF)
        assert not vault.exists(strange, REF)
        assert vault.erased_at_s(strange, REF) is None
        assert len(kms.asked) == before


@pytest.mark.parametrize(
    "code", ["ExpiredTokenException", "AccessDeniedException", "UnrecognizedClientException"]
)
def test_atk_026_a_refusal_is_not_asked_again(kms: Kms, code: str) -> None:
    with AwsKmsVault(KmsPlace.parse(kms.url)) as vault:
        handle = vault.create(REF)
        _, sealed = wrapped(vault, handle)
        principal = kms.principals["SUPERVISOR"]
        if code == "ExpiredTokenException":
            principal.expires_s = kms.now_s
        elif code == "AccessDeniedException":
            principal.actions = frozenset({"Encrypt"})
        else:
            kms.principals.clear()
        for _ in range(30):
            with pytest.raises(VaultRefused, match=code):
                vault.unwrap(handle, REF, sealed, CONTEXT)
        # One, and one more for each rest of 1, 2, 4 … s that may have passed on a slow machine.
        assert kms.count("Decrypt") <= 4


def test_atk_026_a_batch_of_an_expired_login_is_no_storm(kms: Kms) -> None:
    with AwsKmsVault(KmsPlace.parse(kms.url)) as vault:
        handle = vault.create(REF)
        _, sealed = wrapped(vault, handle)
        kms.principals["SUPERVISOR"].expires_s = kms.now_s
        with pytest.raises(VaultRefused):
            vault.unwrap_many(handle, REF, [(sealed, CONTEXT)] * 5_000)
        assert kms.count("Decrypt") <= 16


def test_a_throttled_request_is_tried_again_and_a_bounded_number_of_times(
    vault: AwsKmsVault, kms: Kms
) -> None:
    handle = vault.create(REF)
    plain, sealed = wrapped(vault, handle)
    kms.failing += [Refused("ThrottlingException"), Refused("KMSInternalException", 500)]
    with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
        assert bytes(opened.view()) == plain
    assert kms.count("Decrypt") == 3
    kms.failing += [Refused("ThrottlingException")] * 10
    with pytest.raises(VaultUnreachable, match="ThrottlingException"):
        vault.unwrap(handle, REF, sealed, CONTEXT)
    assert kms.count("Decrypt") == 6


def test_a_grant_opens_for_one_context_until_it_is_revoked(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    with AwsKmsVault(KmsPlace.parse(kms.url), patience=patience()) as owner:
        handle = owner.create(REF)
        _, sealed = wrapped(owner, handle)
    kms.principals["NODE"] = Principal(actions=frozenset())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NODE")
    with AwsKmsVault(KmsPlace.parse(kms.url), patience=patience()) as node:
        with pytest.raises(VaultRefused, match="AccessDenied"):
            node.unwrap(handle, REF, sealed, CONTEXT)
        grant = kms.grant(handle, "NODE", "Decrypt", stoker_scope=REF.scope)
        node.unwrap(handle, REF, sealed, CONTEXT).wipe()
        with pytest.raises(VaultRefused):
            node.unwrap(handle, KekRef("dataset/other", 1), sealed, CONTEXT)
        del kms.grants[grant]
        with pytest.raises(VaultRefused):
            node.unwrap(handle, REF, sealed, CONTEXT)


def test_a_service_that_is_away_is_said_and_not_waited_for_long(kms: Kms) -> None:
    place = KmsPlace.parse(kms.url.replace(kms.endpoint, "http://127.0.0.1:1"))
    with AwsKmsVault(place, patience=patience()) as vault, pytest.raises(VaultUnreachable, match="aws-kms"):
        vault.create(REF)


def test_without_credentials_it_is_said(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with open_aws_kms(kms.url) as vault, pytest.raises(VaultRefused, match="NoCredentials"):
        vault.create(REF)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(VaultRefused, match="ProfileNotFound"):
        open_aws_kms(kms.url)


def test_atk_030_requests_of_boto3_keep_the_rules_of_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another")
    spiffe = "spiffe://stoker.test/kms"
    with kms_server(authority.issue("kms", uris=[spiffe])) as kms:
        for name, value in kms.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca_file))  # botocore would trust it; it has no say
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        url = f"aws-kms://{REGION}?endpoint={kms.endpoint}&ca_file="
        for wrong in (f"{other.ca_file}", f"{authority.ca_file}&spiffe_id=spiffe://stoker.test/other"):
            with open_aws_kms(url + wrong) as vault, pytest.raises(InsecureLink):
                vault.create(REF)
        assert kms.asked == []
        with open_aws_kms(f"{url}{authority.ca_file}&spiffe_id={spiffe}") as vault:
            handle = vault.create(REF)
            plain, sealed = wrapped(vault, handle)
            with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
                assert bytes(opened.view()) == plain


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("aws-kms://", BadKeysUrl),
        ("aws-kms://eu central", BadKeysUrl),
        ("aws-kms://x.example/", BadKeysUrl),
        ("aws-kms://eu-central-1?secret=x", BadKeysUrl),
        ("aws-kms://eu-central-1?origin=here", BadKeysUrl),
        ("aws-kms://eu-central-1?plain_loopback=no", BadKeysUrl),
        ("aws-kms://eu-central-1?ca_file=relative.pem", BadKeysUrl),
        ("aws-kms://eu-central-1?endpoint=http://kms.example&plain_loopback=yes", InsecureLink),
        ("aws-kms://eu-central-1?endpoint=http://127.0.0.1", InsecureLink),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_aws_kms(url)


def test_no_key_is_in_the_log(
    kms: Kms, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore writes requests and answers into its log at the level DEBUG."""
    caplog.set_level(logging.DEBUG)
    with open_aws_kms(kms.url) as vault:
        handle = vault.create(REF)
        plain, sealed = wrapped(vault, handle)
        vault.unwrap(handle, REF, sealed, CONTEXT).wipe()
    import base64

    said = caplog.text
    assert base64.b64encode(plain).decode() not in said
    assert plain.hex() not in said
    assert repr(plain) not in said


def test_the_form_of_requests_is_what_moto_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as moto:
        for name, value in (Kms().environment() | moto.environment).items():
            monkeypatch.setenv(name, value)
        url = f"aws-kms://{REGION}?endpoint={moto.endpoint}&plain_loopback=yes"
        with AwsKmsVault(KmsPlace.parse(url), patience=patience()) as vault:
            handle = vault.create(REF)
            plain, sealed = wrapped(vault, handle)
            with vault.unwrap(handle, REF, sealed, CONTEXT) as opened:
                assert bytes(opened.view()) == plain
            with pytest.raises(WrongContext):
                vault.unwrap(handle, REF, sealed, b"another")
            # moto knows no key by its ARN in DisableKey, EnableKey, ScheduleKeyDeletion: our own server does.
            assert vault.exists(handle, REF)
