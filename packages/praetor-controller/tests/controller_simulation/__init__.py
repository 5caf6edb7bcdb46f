"""For tests, and in no wheel: the real controller on a cluster and devices in memory, and what a rollout promises."""
