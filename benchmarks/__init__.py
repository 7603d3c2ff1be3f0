"""Every figure of the README and of docs/ can be made again from here."""
