"""What stands in an array of labels where no class does."""

UNLABELLED = -1
