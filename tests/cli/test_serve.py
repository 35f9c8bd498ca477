"""`stoker serve`: what it does by itself beside answering."""

from __future__ import annotations

from collections.abc import Callable

from support.cli_home import CliHome

DAY_S = 86_400.0
HomeAt = Callable[[str], CliHome]


def test_the_server_sweeps_keys_in_the_name_of_whoever_serves(home_at: HomeAt) -> None:
    home = home_at("prepared")
    home.stoker("identity", "create", "hands", "--role", "operator", by="")
    (dataset,) = home.data("dataset", "ls")["datasets"]
    assert "key.retire" not in home.acts()

    def swept() -> bool:
        return "key.retire" in home.acts()

    done = home.interrupt("serve", "--port", "0", when=swept, by="hands", ahead_s=400 * DAY_S)
    assert "serving http://127.0.0.1:" in done.err
    assert "the sweep of keys" not in done.err
    (shown,) = home.data("key", "show", dataset["kek"], ahead_s=400 * DAY_S)["keys"]
    assert shown["state"] == "deactivated"
