//! Work that agents do: jobs whose place names one. The agent leases them, and reports.
