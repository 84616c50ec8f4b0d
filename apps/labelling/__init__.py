"""People label tiles: their answers on disk, the grid in the notebook, other tools' files."""
