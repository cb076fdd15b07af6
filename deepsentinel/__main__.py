"""`python -m deepsentinel` is the command line."""

from deepsentinel.cli import main

if __name__ == "__main__":
    main()
