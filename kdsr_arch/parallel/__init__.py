"""Processes that train together: launchers, rendezvous, collective operations."""
