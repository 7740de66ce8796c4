"""The bundle's report.html, for the person who decides whether to use the model: what matters comes first."""

from export.report.page import bundle_report

__all__ = ["bundle_report"]
