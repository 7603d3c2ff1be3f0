"""Shim until the tables stand here."""

from scales import settings_for
