"""``python -m hivemind_p2p`` is ``hivemind-peer``."""

from hivemind_p2p.cli import main

if __name__ == "__main__":
    main()
