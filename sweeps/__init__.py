"""Ready sweeps: sweep=NAME reads NAME.yaml; README.md beside this file lists them."""
