"""How data gets here: downloads, archives, patches, synthetic tissue and slides."""
