"""What was answered and what really happened: spool, shipper, label clock."""
