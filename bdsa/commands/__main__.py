"""`python -m bdsa.commands NAME ...` is `bdsa NAME ...`, where the scripts are not on the path."""
from bdsa.commands.entry_points import main

main()
