"""Helpers for testing programs that use hivemind_p2p; part of the public interface."""
