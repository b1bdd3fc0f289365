"""The stages of out-of-band healing. Each imports only earlier ones, and `remediation` joins them.

- `inventory`, `link`: which BMCs are meant, and how each is reached.
- `sweep`, `observe`: asking many BMCs a little, or one BMC everything.
- `host_evidence`: what the host itself reports, and whether it kept running.
- `identity`: whether that host and that BMC belong together.
- `diagnose`, `guardrails`, `plan`: what is wrong, what forbids an action, what is done.
- `act`, `verify`: the reset with the watchdog timer held, and the proof of the restart.
"""
