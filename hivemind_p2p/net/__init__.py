"""The network: streams to peers, messages on them, and one handler a protocol. Only this folder imports libp2p."""
