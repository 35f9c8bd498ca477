"""What every room stands on: errors, configuration, ids, clock, events. Depends on nothing of ours."""
