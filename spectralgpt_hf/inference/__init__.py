"""Models at work on images: reconstruction, and pictures of it."""
