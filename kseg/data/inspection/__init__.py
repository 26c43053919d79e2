"""Checks of a data set before training: statistics, issues, class weights."""
