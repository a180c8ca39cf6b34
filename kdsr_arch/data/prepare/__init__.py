"""Conversion of folders, videos and standard data sets into stores."""
