"""Where the bytes of KEKs lie: one module a vault. See docs/design/keys.md, "Registry and vaults"."""
