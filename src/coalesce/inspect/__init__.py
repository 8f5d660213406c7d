"""Commands that only read: status, verify, policy."""
