"""The swarm: contents by link, exchanged piece by piece and checked against their hash tree."""
