"""Reports: HTML pages and figures of runs, comparisons and data sets."""
