"""`python -m nash_bench`: the same as the command nash-bench."""

from .cli import main

if __name__ == "__main__":
    main()
