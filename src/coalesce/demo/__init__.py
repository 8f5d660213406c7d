"""The embedded server and the data set of `coalesce demo`."""
