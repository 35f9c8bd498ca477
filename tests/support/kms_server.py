"""An AWS KMS for tests that keeps to the states of its keys; moto decrypts with dead ones.

    with kms_server() as kms:
        monkeypatch.setenv(...)                    # kms.environment("supervisor")
        vault = open_aws_kms(kms.url)

It speaks the JSON protocol over real HTTP(S) on loopback and knows what Stoker uses: keys in their states
(Enabled, Disabled, PendingImport, PendingDeletion with 7 to 30 days on its own clock), real AES-GCM with the
encryption context as associated data, principals with rights, grants and credentials that expire. It
checks no signatures: who signs is read out of the request.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import re
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from support.certificates import Shown

REGION: Final = "eu-central-1"
ACCOUNT: Final = "111122223333"
DAY_S: Final = 86_400.0
EVERYTHING: Final = frozenset({"*"})


class Refused(Exception):
    """An error of KMS: its code, and the status it comes with."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


@functools.cache
def import_key() -> rsa.RSAPrivateKey:
    """What material is imported under; a fresh one of 4,096 bits each time would take seconds."""
    return rsa.generate_private_key(65537, 3072)


@dataclass
class Key:
    """One KMS key."""

    arn: str
    origin: str
    description: str
    state: str
    material: bytes | None
    deletion_s: float | None = None
    import_key: rsa.RSAPrivateKey | None = None
    import_token: bytes = b""


@dataclass
class Grant:
    """What one principal may do with one key, and under which encryption context."""

    key: str
    principal: str
    operations: frozenset[str]
    subset: dict[str, str]


@dataclass
class Principal:
    """Who signs with an access key: actions allowed by policy, and until when the credentials hold."""

    actions: frozenset[str] = EVERYTHING
    expires_s: float | None = None


@dataclass
class Kms:
    """All there is, and a record of what was asked."""

    endpoint: str = ""
    now_s: float = 0.0
    keys: dict[str, Key] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    principals: dict[str, Principal] = field(default_factory=lambda: {"SUPERVISOR": Principal()})
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failing: list[Refused] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"aws-kms://{REGION}?endpoint={self.endpoint}&plain_loopback=yes"

    def environment(self, principal: str = "SUPERVISOR") -> dict[str, str]:
        """The credentials of a principal, where boto3 looks."""
        return {
            "AWS_ACCESS_KEY_ID": principal,
            "AWS_SECRET_ACCESS_KEY": "not-checked",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def advance_days(self, days: float) -> None:
        """Time passes, and what was scheduled happens."""
        self.now_s += days * DAY_S
        for arn, key in list(self.keys.items()):
            if key.deletion_s is not None and self.now_s >= key.deletion_s:
                del self.keys[arn]

    def count(self, action: str) -> int:
        return sum(each == action for each, _ in self.asked)

    def grant(self, arn: str, principal: str, *operations: str, **subset: str) -> str:
        """A grant's id; `subset` names members of the encryption context, with _ for -."""
        grant_id = secrets.token_hex(8)
        constraint = {name.replace("_", "-"): value for name, value in subset.items()}
        self.grants[grant_id] = Grant(arn, principal, frozenset(operations), constraint)
        return grant_id

    def answer(self, action: str, signer: str, words: dict[str, Any]) -> dict[str, Any]:
        """One request. Raises Refused."""
        with self.lock:
            self.asked.append((action, words))
            if self.failing:
                raise self.failing.pop(0)
            self._allow(action, signer, words)
            known: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
                "CreateKey": self._create,
                "DescribeKey": lambda words: {"KeyMetadata": _metadata(self._key(words))},
                "Encrypt": self._encrypt,
                "Decrypt": self._decrypt,
                "EnableKey": lambda words: self._switch(words, "Enabled"),
                "DisableKey": lambda words: self._switch(words, "Disabled"),
                "ScheduleKeyDeletion": self._schedule,
                "CancelKeyDeletion": self._cancel,
                "GetParametersForImport": self._parameters,
                "ImportKeyMaterial": self._import,
                "DeleteImportedKeyMaterial": self._delete_material,
            }
            if action not in known:
                raise Refused("UnknownOperationException")
            return known[action](words)

    def _allow(self, action: str, signer: str, words: dict[str, Any]) -> None:
        principal = self.principals.get(signer)
        if principal is None:
            raise Refused("UnrecognizedClientException")
        if principal.expires_s is not None and self.now_s >= principal.expires_s:
            raise Refused("ExpiredTokenException")
        if principal.actions & {"*", action}:
            return
        context = words.get("EncryptionContext", {})
        for each in self.grants.values():
            right = (each.key, each.principal) == (words.get("KeyId"), signer) and action in each.operations
            if right and each.subset.items() <= context.items():
                return
        raise Refused("AccessDeniedException")

    def _key(self, words: dict[str, Any]) -> Key:
        try:
            return self.keys[words["KeyId"]]
        except KeyError:
            raise Refused("NotFoundException") from None

    def _usable(self, words: dict[str, Any]) -> tuple[Key, AESGCM, bytes]:
        key = self._key(words)
        if key.state == "Disabled":
            raise Refused("DisabledException")
        if key.state != "Enabled" or key.material is None:
            raise Refused("KMSInvalidStateException")
        context = json.dumps(words.get("EncryptionContext", {}), sort_keys=True).encode()
        return key, AESGCM(key.material), context

    def _create(self, words: dict[str, Any]) -> dict[str, Any]:
        for tag in words.get("Tags", []):
            if not re.fullmatch(r"[\w\s.:/=+\-@]{1,256}", tag["TagValue"]):
                raise Refused("TagException")
        external = words.get("Origin") == "EXTERNAL"
        key_id = "-".join(secrets.token_hex(length) for length in (4, 2, 2, 2, 6))
        key = Key(
            arn=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}",
            origin=words.get("Origin", "AWS_KMS"),
            description=words.get("Description", ""),
            state="PendingImport" if external else "Enabled",
            material=None if external else secrets.token_bytes(32),
        )
        self.keys[key.arn] = key
        return {"KeyMetadata": _metadata(key)}

    def _encrypt(self, words: dict[str, Any]) -> dict[str, Any]:
        key, cipher, context = self._usable(words)
        nonce, arn = secrets.token_bytes(12), key.arn.encode()
        sealed = cipher.encrypt(nonce, base64.b64decode(words["Plaintext"]), context)
        blob = bytes([1, len(arn)]) + arn + nonce + sealed
        return {"CiphertextBlob": base64.b64encode(blob).decode(), "KeyId": key.arn}

    def _decrypt(self, words: dict[str, Any]) -> dict[str, Any]:
        blob = base64.b64decode(words["CiphertextBlob"])
        if len(blob) < 2 or blob[0] != 1 or len(blob) < 2 + blob[1] + 28:
            raise Refused("InvalidCiphertextException")
        arn, rest = blob[2 : 2 + blob[1]], blob[2 + blob[1] :]
        key, cipher, context = self._usable(words)
        if arn != key.arn.encode():
            raise Refused("IncorrectKeyException")
        try:
            plain = cipher.decrypt(rest[:12], rest[12:], context)
        except InvalidTag:
            raise Refused("InvalidCiphertextException") from None
        return {"Plaintext": base64.b64encode(plain).decode(), "KeyId": key.arn}

    def _switch(self, words: dict[str, Any], state: str) -> dict[str, Any]:
        key = self._key(words)
        if key.state not in ("Enabled", "Disabled"):
            raise Refused("KMSInvalidStateException")
        key.state = state
        return {}

    def _schedule(self, words: dict[str, Any]) -> dict[str, Any]:
        key, days = self._key(words), words.get("PendingWindowInDays", 30)
        if not 7 <= days <= 30:
            raise Refused("ValidationException")
        if key.state == "PendingDeletion":
            raise Refused("KMSInvalidStateException")
        key.state, key.deletion_s = "PendingDeletion", self.now_s + days * DAY_S
        return {"KeyId": key.arn, "KeyState": key.state}

    def _cancel(self, words: dict[str, Any]) -> dict[str, Any]:
        key = self._key(words)
        if key.state != "PendingDeletion":
            raise Refused("KMSInvalidStateException")
        key.state = "PendingImport" if key.material is None else "Disabled"
        key.deletion_s = None
        return {"KeyId": key.arn}

    def _external(self, words: dict[str, Any]) -> Key:
        key = self._key(words)
        if key.origin != "EXTERNAL":
            raise Refused("UnsupportedOperationException")
        return key

    def _parameters(self, words: dict[str, Any]) -> dict[str, Any]:
        key = self._external(words)
        if words["WrappingAlgorithm"] != "RSAES_OAEP_SHA_256" or words["WrappingKeySpec"] != "RSA_4096":
            raise Refused("ValidationException")
        key.import_key = import_key()
        key.import_token = secrets.token_bytes(16)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public = key.import_key.public_key().public_bytes(serialization.Encoding.DER, form)
        return {
            "KeyId": key.arn,
            "ImportToken": base64.b64encode(key.import_token).decode(),
            "PublicKey": base64.b64encode(public).decode(),
        }

    def _import(self, words: dict[str, Any]) -> dict[str, Any]:
        key = self._external(words)
        if key.import_key is None or base64.b64decode(words["ImportToken"]) != key.import_token:
            raise Refused("InvalidImportTokenException")
        if key.state != "PendingImport":
            raise Refused("KMSInvalidStateException")
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        key.material = key.import_key.decrypt(base64.b64decode(words["EncryptedKeyMaterial"]), oaep)
        key.state, key.import_key = "Enabled", None
        return {}

    def _delete_material(self, words: dict[str, Any]) -> dict[str, Any]:
        key = self._external(words)
        if key.state not in ("PendingDeletion", "PendingImport"):
            key.state = "PendingImport"
        key.material = None
        return {}


def _metadata(key: Key) -> dict[str, Any]:
    key_id = key.arn.rpartition("/")[2]
    return {
        "Arn": key.arn,
        "KeyId": key_id,
        "KeyState": key.state,
        "Enabled": key.state == "Enabled",
        "Origin": key.origin,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        **({} if key.deletion_s is None else {"DeletionDate": key.deletion_s}),
    }


@contextlib.contextmanager
def kms_server(shown: Shown | None = None) -> Iterator[Kms]:
    """A KMS on loopback, with TLS when a certificate is shown."""
    kms = Kms()

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece, or each waits 40 ms for an acknowledgement

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            action = self.headers["X-Amz-Target"].removeprefix("TrentService.")
            signer = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            try:
                status, said = 200, kms.answer(action, signer[1] if signer else "", json.loads(body or b"{}"))
            except Refused as error:
                status, said = error.status, {"__type": error.code, "message": "said by the test's KMS"}
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return None

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return None

    server = Server(("127.0.0.1", 0), Answer)
    kms.endpoint = f"http://127.0.0.1:{server.server_port}"
    if shown is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown.cert, shown.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        kms.endpoint = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield kms
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
