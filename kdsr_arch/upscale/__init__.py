"""Upscaling for people: images, folders and videos through a trained network, whole or not at all."""
