"""Model-inversion privacy audits of image classifiers: attack, judge, score, gate, repair, audit again."""

__version__ = "0.1.0"
