"""One file per model type of transformers, named after it; a class `Model` derived from `Family`."""
