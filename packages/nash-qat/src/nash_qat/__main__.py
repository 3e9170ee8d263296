"""`python -m nash_qat`: the same as the command nash-qat."""

from .cli import main

if __name__ == "__main__":
    main()
