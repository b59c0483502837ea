"""The bootstrap over HTTP: a status page for people, JSON for programs, metrics for Prometheus."""
