"""The directory: a Kademlia of our own that keeps signed, expiring records."""
