"""Rollouts, carried out: what the log tells of a trial, each look at it, and what is done.

What follows from what is seen is decided in `core/trials`.
"""
