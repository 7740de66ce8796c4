"""The bundle's report.html, for the person who decides whether to use the model: what matters first, the rest folded."""

from export.report.page import bundle_report

__all__ = ["bundle_report"]
