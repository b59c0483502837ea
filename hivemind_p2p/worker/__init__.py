"""Runs work on this machine: the sandbox, the child process in it, and what it used."""
