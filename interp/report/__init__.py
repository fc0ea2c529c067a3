"""Figures and reports: a run or a bench in, plotly or one HTML file out that opens offline; needs no model."""
