"""The vocabulary that planner and engine share: model, run, recipe, policy, job. No torch. docs/design/spec.md."""
