"""One module a vendor; nothing else imports a vendor."""
