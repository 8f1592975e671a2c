"""`python scripts/benchmarks COMMAND`: what a PJVLT costs; see `commands`."""

from commands import main

if __name__ == "__main__":
    main()
