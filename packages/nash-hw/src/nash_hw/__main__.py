"""`python -m nash_hw`: the same as the command nash-hw."""

from .cli import main

if __name__ == "__main__":
    main()
