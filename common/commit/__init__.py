"""The commit protocol: plan, staging, publishing, the ledger and its repair."""
