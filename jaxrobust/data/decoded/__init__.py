"""From the bytes of image files to cropped pixels, which are kept for the next sweep."""
