"""What becomes of a trained model: run over images, scored, shown in the report, written as pictures and files."""
