"""The report of the paper checks: rows of evidence to one self-contained page and to LaTeX. It computes nothing but counts and never imports torch."""
