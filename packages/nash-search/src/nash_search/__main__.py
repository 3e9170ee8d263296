"""`python -m nash_search`: the same as the command nash-search."""

from .cli import main

if __name__ == "__main__":
    main()
