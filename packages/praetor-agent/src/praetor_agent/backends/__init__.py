"""Backends supervise processes on a device, behind one small protocol; one module each."""
