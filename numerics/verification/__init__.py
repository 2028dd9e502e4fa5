"""The main line: derive, certify, sample, attack and descend."""
