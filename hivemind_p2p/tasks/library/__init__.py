"""The task types that every peer knows."""
