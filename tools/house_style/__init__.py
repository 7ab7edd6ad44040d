"""Made-up notes of the demo company's staff, and what each becomes in the house style.

`python -m tools.house_style --help`. The sentences are in `phrases/`: those of `train.yaml` are
shared out between training and validation, those of `held.yaml` are asked in tests alone.
"""
