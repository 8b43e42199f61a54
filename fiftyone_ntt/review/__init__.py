"""What people decide, and what is fitted to or learned from it. A person's decision is never overwritten."""
