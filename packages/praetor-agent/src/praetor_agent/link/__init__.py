# SPDX-License-Identifier: Apache-2.0
"""The connection to the gateway: requests, the long poll, reports and facts."""
