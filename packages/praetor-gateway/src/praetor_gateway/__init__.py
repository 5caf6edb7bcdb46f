"""Praetor: see the README."""
