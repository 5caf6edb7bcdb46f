"""Many pretend devices in one program: the real protocol, and processes that exist in memory only."""
