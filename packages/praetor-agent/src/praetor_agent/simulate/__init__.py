# SPDX-License-Identifier: Apache-2.0
"""`praetor-agent simulate`: many simulated devices in one process. They speak the real protocol and run nothing."""
