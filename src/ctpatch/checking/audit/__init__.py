"""Leakage between splits: patients, slices and patches that are in more than one."""

from ctpatch.checking.audit.report import AuditReport, Fault, Leak, NotChecked, RowRef, SplitSummary
from ctpatch.checking.audit.run import audit

__all__ = ["AuditReport", "Fault", "Leak", "NotChecked", "RowRef", "SplitSummary", "audit"]
