"""Running a network on frames, whatever form of input it takes."""
