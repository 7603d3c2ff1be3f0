"""Attempts to make the commands lose a result or mislead a user: `python3 -m benchmarks.campaign`."""
