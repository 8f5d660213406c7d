"""Commands that look and change nothing: status, verify, policy."""
