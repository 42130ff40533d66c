"""Side-by-side measurements against peers, one command each: `python -m benchmarks.<name>` from the root (see the Makefile)."""
