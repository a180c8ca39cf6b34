"""The Python interface, which `import kdsr` offers: upscaling, distillation on any loop, trainings by option files."""
