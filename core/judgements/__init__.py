"""What is said of fitted models besides their plain scores, one judgement a file; see `core/contracts/judgement.py`."""
