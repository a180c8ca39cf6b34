"""What several tests need: tiny networks, option files, trainings in processes of their own, checks of messages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
