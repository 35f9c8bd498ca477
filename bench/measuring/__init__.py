"""What every benchmark shares, so that each holds only what it measures. See docs/bench/README.md.

`figures` is what a benchmark says, `turns` how samples are taken, `command` how it is started and shown;
`house` and `texts` are things to measure on.
"""
