"""Lines between the processes of a run that nothing of Stoker writes: one error each, which repeats none."""

from __future__ import annotations

import json

import pytest

from stoker.core.errors import BadEvent, ConfigError, StokerError
from stoker.fleet.agent_plan import decode_order
from stoker.fleet.agent_plan import decode_plan as decode_agent_plan
from stoker.fleet.spread.node_lines import decode_from_host, decode_plan, decode_to_host
from support.fuzz_run import KEK, from_host_seeds, order_seeds, to_host_seeds

NONSENSE = [b"", b"\n", b"no json", b"[" * 5000, b"7\n", b"null\n", b"{}\n", b'{"order": 7}\n', b"\xff\xfe"]


@pytest.mark.parametrize("line", NONSENSE)
def test_nonsense_is_one_error_for_each_that_reads_lines(line: bytes) -> None:
    for decode in (decode_order, decode_agent_plan, decode_plan, decode_to_host):
        with pytest.raises(ConfigError):
            decode(line)
    with pytest.raises(BadEvent):
        decode_from_host(line)


def test_what_is_missing_too_much_or_of_another_kind_is_refused() -> None:
    for order in map(json.loads, order_seeds()):
        for name in set(order) - {"order"}:
            changed = {key: value for key, value in order.items() if key != name}
            if (order["order"], name) not in {("kill", "signal"), ("stop", "quiet"), ("stop", "stacks")}:
                with pytest.raises(ConfigError):
                    decode_order(json.dumps(changed).encode())
            with pytest.raises(ConfigError):
                decode_order(json.dumps({**order, name: None}).encode())
        with pytest.raises(ConfigError):
            decode_order(json.dumps({**order, "more": 1}).encode())


def test_words_of_a_lease_that_nothing_can_be_made_of_are_refused_where_they_are_read() -> None:
    given = json.loads(to_host_seeds()[0])
    for name, value in (
        ("wrapped", "xy"),
        ("kek", "run"),
        ("may_open", ["#"]),
        ("may_seal", [f"{KEK}\ud800"]),
    ):
        with pytest.raises(StokerError):
            decode_to_host(json.dumps({**given, "body": {**given["body"], name: value}}).encode())
    with pytest.raises(ConfigError):
        decode_to_host(b'{"order": "lease_ended", "body": {"why": 77}}\n')


def test_an_error_does_not_repeat_what_stood_in_the_line() -> None:
    for decode in (decode_order, decode_to_host):
        with pytest.raises(ConfigError) as refused:
            decode(b'{"order": "secret-word-of-a-letter"}\n')
        assert "secret-word" not in f"{refused.value.message} {refused.value.hint}"


def test_what_is_written_is_understood() -> None:
    for line in (*to_host_seeds(), *order_seeds()):
        decode_to_host(line)
    for line in from_host_seeds():
        decode_from_host(line)
