"""Every published table, run again at a chosen scale beside the published numbers."""
