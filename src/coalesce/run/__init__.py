"""The whole run, in one process or many."""
