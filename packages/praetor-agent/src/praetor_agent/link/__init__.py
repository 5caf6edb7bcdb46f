"""The connection to the gateway: requests, the long poll, reports and facts."""
