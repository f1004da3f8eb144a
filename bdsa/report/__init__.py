"""bdsa-report and bdsa-compare: tables, plots and a page from run folders; nothing here trains or imports torch."""
