"""`python -m muflow_cli` is the command `muflow`."""

from muflow_cli.cli import main

if __name__ == "__main__":
    main()
