"""Functions on image arrays, and image files."""
