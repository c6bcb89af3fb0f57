"""Judging: is a model any good, beside the trivial predictors on the same windows?"""
