"""What travels between peers: one .proto file a protocol, and the Python that `generate.py` makes of them."""
