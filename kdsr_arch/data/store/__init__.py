"""Frames and teacher outputs in LMDB stores."""
