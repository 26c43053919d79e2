"""Checks of a data set before training: statistics of every sample, issues found in them, class weights."""
