"""A run stays alive: state machine, supervisor, agent, isolation, and where its time went.

See docs/design/fleet.md.
"""
