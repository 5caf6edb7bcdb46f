# SPDX-License-Identifier: Apache-2.0
"""The conformance kit of the device protocol: a device that asks a gateway, and a gateway that an agent asks."""
