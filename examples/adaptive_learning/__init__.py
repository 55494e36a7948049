"""Adaptive learning: will this learner answer this question right, and which one should come next?"""
