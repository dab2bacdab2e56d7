"""Reports of runs and searches: tables on the terminal, pages that open offline, JSON."""

from spade_keras.report.findings import FrontPanel, Remeasured, SearchFindings
from spade_keras.report.run import closing_table, columns, table_rows, verdict, write_report
from spade_keras.report.search import search_overview, summarize_search, write_search_report
from spade_keras.report.transfer import transfer_rows, transfer_table, write_transfer_report

__all__ = [
    "FrontPanel",
    "Remeasured",
    "SearchFindings",
    "closing_table",
    "columns",
    "search_overview",
    "summarize_search",
    "table_rows",
    "transfer_rows",
    "transfer_table",
    "verdict",
    "write_report",
    "write_search_report",
    "write_transfer_report",
]
