"""Running a teacher once and storing what it computes."""
