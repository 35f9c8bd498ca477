"""The vocabulary that planner and engine share: model, run, recipe, job. See docs/design/spec.md."""
