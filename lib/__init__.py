"""Few labels or none: VLM-CPL and UniSAL on histopathology tiles."""
