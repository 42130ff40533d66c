"""Is the model still sound? Profiles of data, tests of drift and performance, the verdict: pure functions of counts."""
