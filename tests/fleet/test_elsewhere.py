"""A dataset opened in a program of one's own: by whom, for what, and for how long."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PROGRAM = """
    import sys, pathlib
    from stoker.core.errors import StokerError
    from stoker.feed.feed import Feed
    from stoker.fleet.elsewhere import open_dataset
    from stoker.intake.review import revoke_review
    from support.promise_home import PURPOSE, open_promise_home

    place = pathlib.Path(sys.argv[1])

    def refused(name, purpose, actor):
        try:
            with open_dataset(name, purpose=purpose, actor=actor, home=place / "home"):
                print("opened")
        except StokerError as error:
            print(error.id)

    with open_promise_home(place) as house:
        house.found()
        house.approve(house.bring_letters("letters"))
        house.prepare("text", "letters")
        refused("text", PURPOSE, "decider")
        refused("text", PURPOSE, "nobody")
        refused("text", "another purpose", "asker")
        refused("texts", PURPOSE, "asker")
        with open_dataset("text", purpose=PURPOSE, actor="asker", home=place / "home") as dataset:
            with Feed(dataset, global_batch=4, seed=0) as feed:
                print(feed.next_array().shape)
            revoke_review(house.review.id, reason="over", revoked_by="decider", ledger=house.ledger,
                          backend=house.backend, clock=house.clock)
            with Feed(dataset, global_batch=4, seed=0) as feed:
                try:
                    feed.next_array()
                except StokerError as error:
                    print(error.id)
        print([entry.actor for entry in house.ledger.audit.acts(["dataset.open"])])
"""


def test_a_program_gets_batches_only_with_role_and_review_and_for_as_long(tmp_path: Path) -> None:
    done = subprocess.run(  # in a process of its own, since opening hardens it
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "not-allowed",
        "unknown-identity",
        "other-purpose",
        "unknown-dataset",
        "(4, 33)",
        "review-revoked",
        "['asker']",
    ]
