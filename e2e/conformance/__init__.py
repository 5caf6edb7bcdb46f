# SPDX-License-Identifier: Apache-2.0
"""`hatch run conformance`: both agents against the kit, whole; most of it is waiting."""
