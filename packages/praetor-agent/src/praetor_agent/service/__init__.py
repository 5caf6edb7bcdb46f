"""The agent as a service of the device: installation, start, checks and status."""
