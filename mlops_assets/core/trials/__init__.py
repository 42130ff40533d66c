"""Trials of a version beside the champion: which tests are made, what follows from them, and what the ledger holds of it. Pure."""
