"""A folder of images: classify it, look at it, keep the classifier for other tiles."""
