"""Tasks: what can be run on a peer, how a peer is chosen, and what may travel back."""
