"""Models of transformers by their id on the Hugging Face hub: what a source names, and what each model type needs."""
