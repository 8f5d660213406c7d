"""What the tests stand on: servers, stores, scenarios, and an auditor of the bucket."""
