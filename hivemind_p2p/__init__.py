"""hivemind_p2p: peer-to-peer compute for notebooks."""
