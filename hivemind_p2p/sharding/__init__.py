"""Models split into stages over peers, and generations that run through them."""
