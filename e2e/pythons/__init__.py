# SPDX-License-Identifier: Apache-2.0
"""`hatch run pythons`: what reaches a device, tested on the oldest and the newest Python."""
