"""``python -m hivemind_bootstrap``."""

from hivemind_bootstrap.cli import main

if __name__ == "__main__":
    main()
