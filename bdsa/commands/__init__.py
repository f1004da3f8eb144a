"""The console scripts: what a shell can ask for, from a command line to its last printed line."""
