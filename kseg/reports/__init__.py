"""HTML reports of runs, comparisons and data sets.

A page is NAME_page.py with templates/NAME.html.jinja. Pages share html.py, figures.py and examples.py. run_report.py and
data_report.py do the work of kseg.report and kseg.inspect_data.
"""
