"""Attempts to make the commands lose a result or mislead a user: a few of each kind in test_faults.py,
all of them by `python3 -m benchmarks.campaign`.
"""
