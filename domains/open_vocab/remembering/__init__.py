"""Fine-tuning a detector without losing what it could do before: `--start RUN --remember NAMES`.

The names to remember are kept by the detector before: its boxes are learned beside those that are annotated (`boxes`),
its weights are mixed with the trained ones (`weights`), and where it is wanted matrices of low rank alone train
(`low_rank`).
"""
