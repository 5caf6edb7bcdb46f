"""Artifacts: fetched, verified and stored under the digest of their content."""
