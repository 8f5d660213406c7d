"""Side-by-side measurements: whole processes, on the same data, in one run."""
