"""The commit protocol: leases, plan records, the probe, commit and recovery."""
