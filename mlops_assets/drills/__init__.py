"""Drills: a running local system is broken on purpose, and must heal by itself. Nothing but the command line imports them."""
