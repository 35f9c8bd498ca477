"""What stands in the registry about one KEK, and what that means now. Pure. See docs/design/keys.md."""

from __future__ import annotations

from stoker.keys.backend import KekInfo
from stoker.keys.errors import KeyExpired, KeyNotActive, KeyUnknown
from stoker.keys.key_events import Activate
from stoker.keys.keystore import KekEntry, Keystore
from stoker.keys.refs import KekRef
from stoker.keys.states import MAY_WRAP, KekLife, KekState, refusal
from stoker.keys.transitions import step


def entry_of(store: Keystore, ref: KekRef) -> KekEntry:
    """Raises KeyUnknown, or KeyDestroyed for a KEK of which only the tombstone is known."""
    entry = store.keks.get(ref)
    if entry is None:
        if ref in store.tombstones:
            raise refusal(ref, KekState.DESTROYED, "")
        raise KeyUnknown(
            f"The key store holds no KEK {ref}.",
            hint="`stoker key list` shows those it holds; was the key store restored from an old backup?",
        )
    return entry


def life_at(ref: KekRef, entry: KekEntry, now_s: float) -> KekLife:
    """Where the KEK stands at `now_s`: a pre-active one is active once its time has come."""
    if entry.life.state is KekState.PRE_ACTIVE and now_s >= entry.activates_s:
        return step(ref, entry.life, Activate())[0]
    return entry.life


def usable(store: Keystore, ref: KekRef, states: frozenset[KekState], now_s: float, refused: str) -> KekEntry:
    """The entry of a KEK that may be used at `now_s`, being in one of `states`.

    Raises KeyUnknown, KeyDestroyed, KeyNotActive or KeyExpired; `refused` is a phrase like "wraps nothing".
    """
    entry = entry_of(store, ref)
    if ref in store.tombstones:
        raise refusal(ref, KekState.DESTROYED, refused)
    life = life_at(ref, entry, now_s)
    if life.state not in states:
        raise refusal(ref, life.state, refused)
    if entry.expires_s is not None and now_s >= entry.expires_s:
        raise KeyExpired(
            f"KEK {ref} has expired.",
            hint="What it sealed is no longer to be read; import or prepare the data anew.",
        )
    if states is MAY_WRAP and now_s >= entry.wraps_until_s:
        raise KeyNotActive(
            f"The time in which KEK {ref} wraps is over; it still opens.",
            hint=f"Rotate it: stoker key rotate {ref.scope}",
        )
    return entry


def info_of(ref: KekRef, entry: KekEntry, now_s: float, vault: str) -> KekInfo:
    """All that may be known of the KEK."""
    life = life_at(ref, entry, now_s)
    return KekInfo(
        ref=ref,
        purpose=entry.purpose,
        state=life.state,
        created_s=entry.created_s,
        activates_s=entry.activates_s,
        wraps_until_s=entry.wraps_until_s,
        expires_s=entry.expires_s,
        deactivated_s=entry.deactivated_s,
        suspended_by=life.suspended_by,
        suspended_reason=life.suspended_reason,
        compromised_by=life.compromised_by,
        compromised_reason=life.compromised_reason,
        compromised_s=entry.compromised_s,
        destroy_requested_by=life.requested_by,
        destroy_window_s=life.window_s,
        destroy_reason=life.destroy_reason,
        destroy_approved_by=life.approved_by,
        destroy_at_s=life.destroy_at_s,
        destroyed_s=entry.destroyed_s,
        wraps=entry.wraps,
        vault=vault,
    )
