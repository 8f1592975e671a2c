"""`python scripts/benchmarks COMMAND`: speed, memory and size of PJVLT; see `commands`."""

from commands import main

if __name__ == "__main__":
    main()
