"""What a person uses who does not read papers: own tiles, labelling, a viewer of slides."""
