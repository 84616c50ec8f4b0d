"""A page of slides with deep zoom, and annotations as QuPath reads them."""
