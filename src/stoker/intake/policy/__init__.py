"""What becomes of findings under a policy: cut, masked, pseudonymised, generalised, quarantined."""
