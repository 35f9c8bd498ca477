"""Key management: hierarchy, states, leases, dual control, and the file back end. See docs/design/keys.md."""
