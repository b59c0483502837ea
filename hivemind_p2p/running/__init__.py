"""``hivemind-peer run``: the command, and the screen on which it shows what the peer does."""
