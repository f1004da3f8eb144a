"""A run on disk: its folder, name, metrics, tracker, and how it is read again."""
