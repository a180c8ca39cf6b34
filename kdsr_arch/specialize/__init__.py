"""A student taught on the very video or folder of images that it will upscale."""
