"""Images for training: reading, cutting, augmenting."""
