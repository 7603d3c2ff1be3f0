"""The shared parts of the task-transfer analysis; docs/design.md says which room holds what."""
